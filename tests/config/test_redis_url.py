"""Reading the URL of a Redis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.config.redis_url import PLAIN, parse_redis_url


@given(st.from_regex(PLAIN, fullmatch=True))
def test_a_plain_url_is_one_that_redis_py_takes(url: str) -> None:
    """So redis-py need not be imported for it."""
    assert parse_redis_url(url).kind == ""


def test_sentinels_have_addresses_a_service_and_secrets_of_their_own() -> None:
    """The user before the hosts is that of the data nodes. TLS is for the data nodes, too."""
    url = "rediss+sentinel://me:a%2Fb@one,two:26380/main/3?sentinel_password=other%40&health_check_interval=5"
    address = parse_redis_url(url)
    assert (address.kind, address.service) == ("sentinel", "main")
    assert address.nodes == [("one", 26379), ("two", 26380)]
    assert address.sentinel_options == {"password": "other@"}
    wanted = {"username": "me", "password": "a/b", "db": 3, "ssl": True, "health_check_interval": 5}
    assert address.options == wanted
    assert "a/b" not in repr(address)


def test_a_cluster_has_nodes() -> None:
    """It has only database 0."""
    address = parse_redis_url("redis+cluster://me:pw@one:7000, two")
    assert (address.kind, address.nodes) == ("cluster", [("one", 7000), ("two", 6379)])
    assert address.options == {"username": "me", "password": "pw", "db": 0}


@pytest.mark.parametrize(
    ("url", "name", "prefix"),
    [
        ("redis://one", "reactor", "reactor"),
        ("redis+sentinel://one/main", "reactor", "reactor"),
        ("redis+cluster://one", "reactor", "{reactor}"),
        ("redis+cluster://one", "blue{jobs}", "blue{jobs}"),
        ("redis+cluster://one", "odd{}", "{odd{}}"),
    ],
)
def test_keys_of_a_namespace_are_in_one_slot_of_a_cluster(url: str, name: str, prefix: str) -> None:
    """By a hash tag, unless the namespace has one."""
    assert parse_redis_url(url).namespace(name) == prefix


@pytest.mark.parametrize(
    "url", ["unix+sentinel://one/main", "redis+sentinel://one", "redis+cluster://one/service/0", "redis+ring://one"]
)
def test_what_is_no_such_url(url: str) -> None:
    """One error, and no other type."""
    with pytest.raises(ValueError, match=r"^[a-z]+$"):
        parse_redis_url(url)
