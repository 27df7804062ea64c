"""Orders from the page: pause, resume, protect, unprotect, restore. Off unless switched on, and by the token alone.

The token must come as a bearer, which no link and no form of another site can send. Each order says who gives it.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.routing import Route

from reactor.operate.actions import Orders
from reactor.web.responses import Declined, answering

MOST_BYTES = 4_096
NAMED = ("protect", "unprotect", "restore")


class Order(BaseModel):
    """Its body."""

    by: str = Field(min_length=1, max_length=100)
    """Who gives it."""
    reason: str = Field(default="", max_length=1_000)


@dataclass(eq=False, repr=False)
class ActionRoutes:
    """The routes of orders.

    `orders` gives None as long as none are taken; without a `token` none ever are.
    """

    orders: Callable[[], Orders | None]
    token: str | None

    @property
    def allowed(self) -> bool:
        """Whether the page should offer them."""
        return self.token is not None and self.orders() is not None

    def routes(self) -> Sequence[Route]:
        """Return a route for each kind of action."""
        take = answering(self._take)
        named = [Route(f"/api/orders/{kind}/{{name:path}}", take, methods=["POST"], name=kind) for kind in NAMED]
        plain = [Route(f"/api/orders/{kind}", take, methods=["POST"], name=kind) for kind in ("pause", "resume")]
        return [*plain, *named]

    async def _take(self, request: Request) -> object:
        orders = self.orders()
        if orders is None or self.token is None:
            raise Declined(403, "orders are not taken here: REACTOR_HTTP_ORDERS, with a token, allows them")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise Declined(401, "token refused: an order takes it as a bearer")
        return {"done": await self._carry_out(orders, request, await _read(request))}

    async def _carry_out(self, orders: Orders, request: Request, order: Order) -> str:
        """Return what was done, in words."""
        kind, name = request.url.path.split("/")[3], request.path_params.get("name", "")
        simple: dict[str, Callable[[str, str], Awaitable[None]]] = {"pause": orders.pause, "resume": orders.resume}
        if kind in simple:
            await simple[kind](order.by, order.reason)
            return "deleting is paused" if kind == "pause" else "deleting goes on"
        if kind == "restore":
            done = await orders.restore(name, order.by, order.reason)
            lost = f"; {done.lost} it held are lost" if done.lost else ""
            return f"{name} is back with {done.messages} messages, and protected{lost}"
        await orders.protect(name, order.by, order.reason, protected=kind == "protect")
        return f"{name} is protected" if kind == "protect" else f"{name} is judged like any other"


async def _read(request: Request) -> Order:
    """Read the body, and no more of it than an action can be."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Declined(413, f"an order has at most {MOST_BYTES} bytes")
    try:
        return Order.model_validate_json(body)
    except ValidationError as error:
        raise Declined(400, f"who orders it? {error.errors()[0]['msg']}") from error
