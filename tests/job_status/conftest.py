"""Fixtures for the tests of directories."""

from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.api import Api

from reactor.deletion import failpoints
from reactor.deletion.failpoints import Point

Act = Callable[[], object]
Fencing = Callable[[Act], None]


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def fencing(monkeypatch: pytest.MonkeyPatch) -> Fencing:
    """Do something right behind the fence."""

    def arm(act: Act) -> None:
        async def hook(point: Point, _: str) -> None:
            if point is Point.FENCED:
                act()

        armed: Callable[[Point, str], Awaitable[None]] = hook
        monkeypatch.setattr(failpoints, "armed", armed)

    return arm
