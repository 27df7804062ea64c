"""A real PostgreSQL, if one is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from reactor.cli.embedded import HOST, free_port


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Execute statements in one transaction."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


@dataclass(frozen=True)
class Postgres:
    """One server. It refuses to run as root, and pytest's folders belong to root."""

    programs: Path
    folder: Path
    port: int

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator["Postgres"]:
        """Return a server that runs until the end. The test is skipped if PostgreSQL is not installed."""
        initdb = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
        if initdb is None:
            pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
        folder = Path(tempfile.mkdtemp(prefix="reactor-postgres-"))
        server = cls(Path(initdb).parent, folder, free_port())
        try:
            if os.geteuid() == 0:
                shutil.chown(folder, "nobody")
            server._call("initdb", "-U", "jobs", "-A", "trust", "--no-sync")
            server.start()
            yield server
            server.kill()
        finally:
            shutil.rmtree(folder)

    @property
    def url(self) -> str:
        """Return the URL for SQLAlchemy."""
        return f"postgresql+asyncpg://jobs@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        """Start it again after a kill."""
        options = f"-p {self.port} -c listen_addresses={HOST} -k {self.folder} -c fsync=off"
        self._call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def kill(self) -> None:
        """Kill it without a notice to its clients."""
        self._call("pg_ctl", "-w", "-m", "immediate", "stop")

    def _call(self, program: str, *args: str) -> None:
        as_nobody = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        command = [*as_nobody, str(self.programs / program), "-D", str(self.folder / "data"), *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)  # noqa: S603  # ours
