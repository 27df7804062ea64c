"""Each way to authenticate with NATS, for the commands and for the worker's connections."""

import json
import os
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme
from redis.asyncio import Redis
from support.harness import eventually, own_nats, own_valkey, reactor, worker

from reactor.cli.embedded import HOST, free_port
from reactor.client.environment import access_of

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
UNLIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
STORAGE = ("mem_storage", "disk_storage", "streams", "consumer")

Way = tuple[str, dict[str, str], str]
"""Configuration of the server, settings that fit it, and a word of the refusal where they are not given."""


class Key:
    """A key pair for JWTs, from the number of a seed."""

    def __init__(self, number: int, prefix: int) -> None:
        self.seed = nkeys.encode_seed(bytes([number] * 32), prefix).decode()
        self._pair = nkeys.from_seed(self.seed.encode())
        self.public = self._pair.public_key.decode()

    def sign(self, subject: "Key", kind: str, claims: dict[str, Any]) -> str:
        """https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt."""
        nats = claims | {"type": kind, "version": 2}
        body = {"iat": 1, "iss": self.public, "sub": subject.public, "name": kind, "nats": nats}
        body["jti"] = b32encode(sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


OPERATOR = Key(1, nkeys.PREFIX_BYTE_OPERATOR)
SYSTEM, ACCOUNT = Key(2, nkeys.PREFIX_BYTE_ACCOUNT), Key(3, nkeys.PREFIX_BYTE_ACCOUNT)
USER = Key(4, nkeys.PREFIX_BYTE_USER)
SECRETS = ("hunter2", USER.seed)


def user_and_password(_folder: Path) -> Way:
    settings = {"REACTOR_NATS_USER": "me", "REACTOR_NATS_PASSWORD": "hunter2"}
    return "authorization { user: me, password: hunter2 }", settings, "authorization"


def token(_folder: Path) -> Way:
    return "authorization { token: hunter2 }", {"REACTOR_NATS_TOKEN": "hunter2"}, "authorization"


def nkey(_folder: Path) -> Way:
    config = f'authorization {{ users: [ {{ nkey: "{USER.public}" }} ] }}'
    return config, {"REACTOR_NATS_NKEY": USER.seed}, "authorization"


def credentials_file(folder: Path) -> Way:
    """Credentials from an operator, as in NGS and Synadia's platforms."""
    unlimited = dict.fromkeys(UNLIMITED, -1) | {"wildcards": True}
    accounts = {
        SYSTEM.public: OPERATOR.sign(SYSTEM, "account", {"limits": unlimited}),
        ACCOUNT.public: OPERATOR.sign(ACCOUNT, "account", {"limits": unlimited | dict.fromkeys(STORAGE, -1)}),
    }
    user = ACCOUNT.sign(USER, "user", {"subs": -1, "data": -1, "payload": -1})
    path = folder / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{USER.seed}\n------END USER NKEY SEED------\n"
    )
    preload = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
    config = (
        f"operator: {OPERATOR.sign(OPERATOR, 'operator', {})}\nsystem_account: {SYSTEM.public}\n"
        f"resolver: MEMORY\nresolver_preload {{\n{preload}\n}}"
    )
    return config, {"REACTOR_NATS_CREDS": str(path)}, "authorization"


def certificates(folder: Path) -> Way:
    """Certificates for both sides from a private authority."""
    authority = trustme.CA()
    paths = {name: folder / f"{name}.pem" for name in ("ca", "server", "server_key", "client", "client_key")}
    authority.cert_pem.write_to_path(paths["ca"])
    for name, cert in {"server": authority.issue_cert(HOST), "client": authority.issue_cert("reactor@test")}.items():
        cert.private_key_pem.write_to_path(paths[f"{name}_key"])
        cert.cert_chain_pems[0].write_to_path(paths[name])
    config = (
        f'tls {{ cert_file: "{paths["server"]}", key_file: "{paths["server_key"]}", '
        f'ca_file: "{paths["ca"]}", verify: true }}'
    )
    settings = {
        "REACTOR_NATS_TLS_CA": str(paths["ca"]),
        "REACTOR_NATS_TLS_CERT": str(paths["client"]),
        "REACTOR_NATS_TLS_KEY": str(paths["client_key"]),
    }
    return config, settings, "certificate"


async def test_a_websocket_url_leads_to_nats(tmp_path: Path) -> None:
    """For a worker and for a job system's emitter."""
    port = free_port()
    config = f'websocket {{ listen: "{HOST}:{port}", no_tls: true }}'
    async with own_nats(tmp_path, config), own_valkey(tmp_path) as valkey:
        env = PLAIN | {
            "REACTOR_NATS_URL": f"ws://{HOST}:{port}",
            "REACTOR_REDIS_URL": f"redis://{HOST}:{valkey.port}/0",
        }
        async with worker(env), Redis.from_url(env["REACTOR_REDIS_URL"]) as redis:
            done = await reactor("emit", "1", "SUCCESS", env=env)
            assert done.code == 0, done
            await eventually(lambda: redis.exists("reactor:job:1"))


def test_a_websocket_url_without_its_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and not as an outage."""
    monkeypatch.setattr("reactor.config.nats_access.find_spec", lambda _: None)
    for url in ("ws://here:80", "wss://here:443"):
        with pytest.raises(ValueError, match=r"jetstream-reactor\[ws\]"):
            access_of({"REACTOR_NATS_URL": url})
    assert access_of({"REACTOR_NATS_URL": "nats://here:4222"}).servers == ("nats://here:4222",)


@pytest.mark.parametrize("way", [user_and_password, token, nkey, credentials_file, certificates])
async def test_credentials_let_commands_and_worker_in(tmp_path: Path, way: Callable[[Path], Way]) -> None:
    """They are never logged. Without them the server's refusal is reported."""
    config, settings, refusal = way(tmp_path)
    async with own_nats(tmp_path, config) as nats, own_valkey(tmp_path) as valkey:
        env = PLAIN | {
            "REACTOR_NATS_URL": f"nats://{HOST}:{nats.port}",
            "REACTOR_REDIS_URL": f"redis://{HOST}:{valkey.port}/0",
            "REACTOR_LOG_FORMAT": "json",
            "REACTOR_LOG_LEVEL": "DEBUG",
        }
        refused = await reactor("emit", "1", "SUCCESS", env=env)
        assert refused.code == 3
        assert refusal in refused.err.lower()
        async with worker(env | settings) as process, Redis.from_url(env["REACTOR_REDIS_URL"]) as redis:
            done = await reactor("emit", "1", "SUCCESS", env=env | settings)
            assert done.code == 0, done
            await eventually(lambda: redis.exists("reactor:job:1"))
            assert not any(secret in line for line in process.lines for secret in SECRETS)
