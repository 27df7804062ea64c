"""Each way to be let in by NATS, for the commands and for the worker's own connections."""

import os
from pathlib import Path

import nkeys
import pytest
from harness import eventually, own_nats, own_valkey, reactor, worker
from redis.asyncio import Redis

from reactor.embedded import HOST

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
PUBLIC = nkeys.from_seed(SEED.encode()).public_key.decode()
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
WAYS = {
    "user and password": (
        "authorization { user: me, password: hunter2 }",
        {"REACTOR_NATS_USER": "me", "REACTOR_NATS_PASSWORD": "hunter2"},
    ),
    "token": ("authorization { token: hunter2 }", {"REACTOR_NATS_TOKEN": "hunter2"}),
    "nkey": (f'authorization {{ users: [ {{ nkey: "{PUBLIC}" }} ] }}', {"REACTOR_NATS_NKEY": SEED}),
}


@pytest.mark.parametrize(("config", "settings"), WAYS.values(), ids=WAYS)
async def test_credentials_let_commands_and_worker_in(tmp_path: Path, config: str, settings: dict[str, str]) -> None:
    """And are never written to a log; without them the server's refusal is said."""
    async with own_nats(tmp_path, config) as nats, own_valkey(tmp_path) as valkey:
        env = PLAIN | {
            "REACTOR_NATS_URL": f"nats://{HOST}:{nats.port}",
            "REACTOR_REDIS_URL": f"redis://{HOST}:{valkey.port}/0",
            "REACTOR_LOG_FORMAT": "json",
            "REACTOR_LOG_LEVEL": "DEBUG",
        }
        refused = await reactor("emit", "1", "SUCCESS", env=env)
        assert refused.code == 3
        assert "authorization" in refused.err.lower()
        async with worker(env | settings) as process, Redis.from_url(env["REACTOR_REDIS_URL"]) as redis:
            done = await reactor("emit", "1", "SUCCESS", env=env | settings)
            assert done.code == 0, done
            await eventually(lambda: redis.exists("reactor:job:1"))
            assert not any(secret in line for line in process.lines for secret in ("hunter2", SEED))
