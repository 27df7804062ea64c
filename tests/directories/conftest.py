"""What tests of directories share."""

from collections.abc import Iterator

import pytest
from api import Api


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.server.shutdown()
    one.server.server_close()
