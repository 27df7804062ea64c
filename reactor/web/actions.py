"""Orders from the page: pause, resume, protect, unprotect, restore. They are off by default, and need the token.

The token must come as a bearer, which a link or a form of another site cannot send. Each order names its author.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.routing import Route

from reactor.operate.actions import Operator, PauseOrder, StreamActions, pause, resume
from reactor.operate.protect import FOR_GOOD
from reactor.web.responses import Declined, answering

MOST_BYTES = 4_096
TIMEOUT_S = 60.0
"""How long the page waits for a deletion under way (s)."""
NAMED = ("protect", "unprotect", "restore")


class Order(BaseModel):
    """The body of an order."""

    by: str = Field(min_length=1, max_length=100)
    """The person who gives the order."""
    reason: str = Field(default="", max_length=1_000)
    without_messages: bool = False
    """For a restore: create the stream empty if there is no backup."""


@dataclass(eq=False, repr=False)
class ActionRoutes:
    """The routes of orders. `actions` returns None if orders are switched off. Without a `token` they are refused."""

    actions: Callable[[], StreamActions | None]
    token: str | None

    @property
    def allowed(self) -> bool:
        """Whether the page should offer orders."""
        return self.token is not None and self.actions() is not None

    def routes(self) -> Sequence[Route]:
        """Return a route for each kind of order."""
        endpoint = answering(self._answer)
        named = [Route(f"/api/orders/{kind}/{{name:path}}", endpoint, methods=["POST"], name=kind) for kind in NAMED]
        plain = [Route(f"/api/orders/{kind}", endpoint, methods=["POST"], name=kind) for kind in ("pause", "resume")]
        return [*plain, *named]

    async def _answer(self, request: Request) -> object:
        actions = self.actions()
        if actions is None or self.token is None:
            raise Declined(403, "orders are switched off: REACTOR_HTTP_ORDERS, with a token, allows them")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise Declined(401, "token refused: an order needs it as a bearer token")
        return {"done": await self._carry_out(actions, request, await _read(request))}

    async def _carry_out(self, actions: StreamActions, request: Request, order: Order) -> str:
        """Carry out an order. Return what was done, as a sentence."""
        kind, name = request.url.path.split("/")[3], request.path_params.get("name", "")
        operator, deps = Operator(order.by, order.reason, on_page=True), actions.deps
        match kind:
            case "pause":
                return _sentence("deleting is paused", await pause(deps.pause_gate, deps.recorder, operator))
            case "resume":
                return _sentence("deleting goes on", await resume(deps.pause_gate, deps.recorder, operator))
            case "restore":
                done = await actions.restore(name, operator, without_messages=order.without_messages)
                lost = f"; {done.lost} messages are lost" if done.lost else ""
                return f"{name} is back with {done.messages} messages, and protected{lost}"
        await actions.protect(name, TIMEOUT_S, operator, FOR_GOOD if kind == "protect" else None)
        return f"{name} is protected" if kind == "protect" else f"{name} is judged like any other"


def _sentence(what: str, done: PauseOrder) -> str:
    if done.unrecorded is None:
        return what
    return f"{what}, but the audit does not have it, since Redis could not be reached: {done.unrecorded}"


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
