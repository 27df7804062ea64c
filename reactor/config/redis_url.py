"""The URL of a Redis: one server, the primary that sentinels name, or a cluster.

    redis://127.0.0.1:6379/0                     and whatever else redis-py takes
    redis+sentinel://host:26379,host:26379/service/0
    redis+cluster://host:6379,host:6379

With `rediss` instead of `redis` the connection uses TLS. User and password stand before the hosts and are the same for
all nodes. Those of the sentinels are parameters: `?sentinel_username=…&sentinel_password=…`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_PORTS = {"sentinel": 26379, "cluster": 6379}
PLAIN = re.compile(r"rediss?://([^@/?#\[\]\s]*@)?[A-Za-z0-9.-]+(:[1-5]?[0-9]{1,4})?(/[0-9]*)?")
"""URLs that are certainly valid. Others are checked by redis-py, whose import takes a tenth of a second."""
_SENTINELS_OWN = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The content of a Redis URL."""

    kind: str
    """`sentinel`, `cluster`, or empty for one server."""
    options: dict[str, Any] = field(repr=False)
    """redis-py's options for the connections to data nodes."""
    nodes: Sequence[tuple[str, int]] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def namespace(self, name: str) -> str:
        """Return the prefix of every key. In a cluster it is a hash tag, so all keys are in one slot."""
        return f"{{{name}}}" if self.kind == "cluster" and not re.search(r"\{[^}]+\}", name) else name


def parse_redis_url(url: str) -> RedisAddress:
    """Read a Redis URL. Raises ValueError, or TypeError for a parameter that redis-py does not know."""
    parts = urlsplit(url)
    tls, _, kind = parts.scheme.partition("+")
    if not kind:
        return RedisAddress("", _options(url))
    secret, at, hosts = parts.netloc.rpartition("@")
    nodes = [urlsplit(f"//{host.strip()}") for host in hosts.split(",")]
    service, _, db = parts.path.strip("/").partition("/")
    if (
        tls not in {"redis", "rediss"}
        or kind not in _PORTS
        or (kind == "sentinel") != bool(service)
        or not all(node.hostname for node in nodes)
    ):
        raise ValueError(kind)
    query, sentinel_options = _split_query(parts.query)
    options = _options(f"{tls}://{secret}{at}{nodes[0].hostname}/{db or 0}{query}")
    options.pop("connection_class", None)
    if tls == "rediss":
        options["ssl"] = True
    del options["host"]
    return RedisAddress(
        kind, options, [(node.hostname or "", node.port or _PORTS[kind]) for node in nodes], service, sentinel_options
    )


def _options(url: str) -> dict[str, Any]:
    from redis.asyncio.connection import ConnectionPool, parse_url  # noqa: PLC0415  # a tenth of a second

    ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]  # connects nowhere yet, refuses what it does not know
    return dict(parse_url(url))


def _split_query(query: str) -> tuple[str, dict[str, Any]]:
    """Split the query into parameters for Redis and for its sentinels."""
    from redis.asyncio.connection import parse_url  # noqa: PLC0415  # as above

    parts = [part for part in query.split("&") if part]
    own = [part for part in parts if part.partition("=")[0] in _SENTINELS_OWN]
    rest = "&".join(part for part in parts if part not in own)
    parsed = parse_url(f"redis://host?{'&'.join(own)}")
    return f"?{rest}" if rest else "", {
        name.removeprefix("sentinel_"): value for name, value in parsed.items() if name in _SENTINELS_OWN
    }
