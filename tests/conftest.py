"""One nats-server and one Valkey for the whole run; an account and a namespace for each test."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import hypothesis
import pytest
import pytest_asyncio
from support.harness import FORKSERVER, World, account_numbers, accounts_config, connected
from support.postgres import Postgres

from reactor.cli import embedded
from reactor.cli.embedded import HOST, Server, free_port, nats_server, running, valkey_server
from reactor.core.subjects import SubjectTemplate
from reactor.telemetry import logs
from reactor.web.asyncapi import document
from reactor.web.server import Endpoint, application

if "REDIS_SERVER" in os.environ:
    embedded._valkey_binary = lambda: os.environ["REDIS_SERVER"]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of hundreds of commands compiles all it imports
gc.set_threshold(50_000)  # collecting cycles takes a tenth of the suite's own CPU
hypothesis.settings.register_profile("reactor", deadline=None)  # no test asserts a speed: the machine may be busy
hypothesis.settings.load_profile("reactor")


def pytest_xdist_auto_num_workers() -> int:
    """Return three for each core, because tests wait for servers more than they compute."""
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the page first. So one worker takes them all, and only one Chromium starts."""
    items.sort(key=lambda item: "test_page.py" not in item.nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the benchmarks. They are here because pytest reads options only from this file."""
    parser.addoption("--rtt", type=float, default=0.0, help="benchmarks: milliseconds of round trip to nats-server")
    parser.addoption("--synced", action="store_true", help="benchmarks: Redis syncs each write (appendfsync always)")
    parser.addoption("--figures", help="benchmarks: a file for the figures, as JSON")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """Configure the log like one-shot commands, some of which run in this process."""
    logs.configure("ERROR", "json")


@pytest_asyncio.fixture(scope="session")
async def nats_one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The shared nats-server."""
    folder = tmp_path_factory.mktemp("nats")
    # By default it promises no more than three quarters of the free disk, and several tests reserve 10 GiB each.
    storage = f'jetstream {{ store_dir: "{folder / "jetstream"}", max_file_store: 1TB }}\n'
    server = nats_server(folder, free_port(), storage + accounts_config(), jetstream=False)
    async with running(server):
        yield server


@pytest_asyncio.fixture(scope="session")
async def valkey_one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The shared Valkey."""
    async with running(valkey_server(tmp_path_factory.mktemp("valkey"), free_port())) as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _forkserver() -> Iterator[None]:
    """The fork server. It starts when the first process is requested."""
    yield
    FORKSERVER.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that the tests of this process share."""
    with Postgres.installed() as server:
        yield server.url


@pytest.fixture(scope="session")
def accounts() -> Iterator[int]:
    """Numbers of unused accounts."""
    return account_numbers()


@asynccontextmanager
async def unused(nats_one: Server, valkey_one: Server, accounts: Iterator[int]) -> AsyncIterator[World]:
    """An unused account and namespace."""
    number = next(accounts)
    nats_url = f"nats://a{number}:pw@{HOST}:{nats_one.port}"
    async with connected(nats_url, f"redis://{HOST}:{valkey_one.port}/0", f"t{number}") as own:
        own.number = number
        yield own


@pytest_asyncio.fixture
async def world(nats_one: Server, valkey_one: Server, accounts: Iterator[int]) -> AsyncIterator[World]:
    """A test's own account and namespace."""
    async with unused(nats_one, valkey_one, accounts) as own:
        yield own


@pytest_asyncio.fixture
async def other(nats_one: Server, valkey_one: Server, accounts: Iterator[int]) -> AsyncIterator[World]:
    """A second account, for tests of the wrong account."""
    async with unused(nats_one, valkey_one, accounts) as own:
        yield own


@pytest_asyncio.fixture
async def page_url() -> AsyncIterator[str]:
    """The endpoint of a worker without data. The page's tests provide the answers."""

    async def ready() -> list[str]:
        return []

    contract = document(SubjectTemplate("jobs.{job_id}"), "9.9.9")
    stopping = asyncio.Event()
    app = application(
        lambda: None, ready, lambda _: (b"", "text/plain"), contract, token=None, hosts={HOST}, stopping=stopping
    )
    endpoint = Endpoint(app, HOST, 0, stopping)
    serving = asyncio.create_task(endpoint.serve())
    yield endpoint.address
    endpoint.stop()
    await serving
