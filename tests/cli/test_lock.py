"""`holdfast lock`: the manners of flock(1), with a client that grants, refuses or waits as the test says, and real commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import holdfast
from holdfast.cli import locking
from holdfast.cli.app import command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeGrant:
    token = 17
    fence = 17

    def remaining(self) -> float:
        return 8.0


class FakeClient:
    """Behaves as `outcome` says: None grants, "wait" never answers, an error is raised. `lose()` is the loss of the lock."""

    def __init__(self) -> None:
        self.outcome: str | holdfast.HoldfastError | None = None
        self.release_error: holdfast.HoldfastError | None = None
        self.asked: dict[str, Any] = {}
        self.released = False
        self.withdrawn = False
        self.waiting = asyncio.Event()
        self.hangs_at_the_end = False
        self.ending = asyncio.Event()
        self._body: asyncio.Task[Any] | None = None
        self._lost = False

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ending.set()
        if self.hangs_at_the_end:
            await asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def lock(self, key: str, *, wait: float | None) -> AsyncIterator[FakeGrant]:
        self.asked |= {"key": key, "wait": wait}
        if self.outcome == "wait":
            self.waiting.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.withdrawn = True
        if isinstance(self.outcome, holdfast.HoldfastError):
            raise self.outcome
        self._body = asyncio.current_task()
        try:
            yield FakeGrant()
        except asyncio.CancelledError:
            if not self._lost:
                raise
        finally:
            self.released = True
        if self._lost:
            raise holdfast.LockLost("the lease has run out")
        if self.release_error is not None:
            raise self.release_error

    def lose(self) -> None:
        self._lost = True
        assert self._body is not None
        self._body.cancel()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()

    def connect(endpoints: str, *, ttl: float, owner: str) -> FakeClient:
        client.asked |= {"endpoints": endpoints, "ttl": ttl, "owner": owner}
        return client

    monkeypatch.setattr(locking, "connect", connect)
    return client


def holdfast_lock(*arguments: str) -> Any:
    return CliRunner().invoke(command, ["lock", *arguments])


def request(*words: str, grace: float = 30.0) -> locking._Request:
    return locking._Request("http://nowhere", "k", words, None, 1, 10.0, grace, "me")


def test_the_command_runs_with_the_lock_and_its_status_is_ours(client: FakeClient) -> None:
    """Exit code 7 of the command is exit code 7 of `holdfast lock`, and the lock is given back."""
    result = holdfast_lock("k", "--", "/bin/sh", "-c", "exit 7")
    assert result.exit_code == 7
    assert client.released


def test_the_command_learns_key_token_and_deadline(client: FakeClient, tmp_path: Any) -> None:
    """By its environment; the deadline is on the clock of /proc/uptime."""
    out = tmp_path / "out"
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    script = f'echo "$HOLDFAST_LOCK $HOLDFAST_TOKEN $HOLDFAST_DEADLINE" > {out}'
    assert holdfast_lock("pay/1", "/bin/sh", "-c", script).exit_code == 0
    key, token, deadline = out.read_text().split()
    assert (key, token) == ("pay/1", "17")
    assert before + 8.0 <= float(deadline) <= time.clock_gettime(time.CLOCK_BOOTTIME) + 8.0


@pytest.mark.parametrize(
    ("options", "wait"), [(["-n"], 0.0), (["-w", "2.5"], 2.5), (["-w", "0"], 0.0), ([], None)]
)
def test_waiting_is_asked_for_as_with_flock(
    client: FakeClient, options: list[str], wait: float | None
) -> None:
    """-n does not wait, -w waits so long, neither waits as long as it takes."""
    assert holdfast_lock(*options, "k", "--", "true").exit_code == 0
    assert client.asked["wait"] == wait


def test_options_of_the_command_are_its_own(client: FakeClient) -> None:
    """What stands after KEY is never read as an option of ours, with and without `--`."""
    assert holdfast_lock("-n", "k", "sh", "-c", "exit 5").exit_code == 5
    assert holdfast_lock("-n", "k", "--", "sh", "-c", "exit 6").exit_code == 6


def test_a_held_key_is_exit_code_1_or_the_chosen_one(client: FakeClient, tmp_path: Any) -> None:
    """The command is not run, and standard error says who is at it."""
    holder = holdfast.Holder(
        token=16, session_ref="ab12", owner="web-3", mode="exclusive", remaining=4.2
    )
    client.outcome = holdfast.NotAcquired("held", keys=("k",), code="held", holders=(holder,))
    ran = tmp_path / "ran"
    result = holdfast_lock("-n", "k", "--", "touch", str(ran))
    assert result.exit_code == 1
    assert "'k' is held by web-3 (token 16), for another 4.2 s" in result.stderr
    assert holdfast_lock("-n", "-E", "99", "k", "--", "touch", str(ran)).exit_code == 99
    assert not ran.exists()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (holdfast.Unreachable("no node answered"), 69),
        (holdfast.UnknownOutcome("no node could tell"), 69),
        (holdfast.SessionLost("gone"), 75),
        (holdfast.BadRequest("key: too long", field="key"), 2),
        (holdfast.LimitReached("waiters_max"), 1),
    ],
)
def test_what_the_cluster_cannot_do_is_an_exit_code_with_a_sentence(
    client: FakeClient, error: holdfast.HoldfastError, exit_code: int
) -> None:
    """A script can tell "somebody else does it" from "the cluster is away"."""
    client.outcome = error
    result = holdfast_lock("k", "--", "true")
    assert result.exit_code == exit_code
    assert str(error) in result.stderr


def test_a_release_that_nobody_heard_does_not_change_how_the_command_ended(
    client: FakeClient,
) -> None:
    """The work is done; the lock ends with its lease."""
    client.release_error = holdfast.Unreachable("no node answered")
    assert holdfast_lock("k", "--", "true").exit_code == 0


def test_a_command_that_is_not_there_is_127_and_one_that_may_not_run_126(
    client: FakeClient, tmp_path: Any
) -> None:
    """As in the shell, and the lock is given back."""
    assert holdfast_lock("k", "--", "/nonexistent/command").exit_code == 127
    plain = tmp_path / "plain"
    plain.write_text("no program")
    assert holdfast_lock("k", "--", str(plain)).exit_code == 126
    assert client.released


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "-w", "3", "k", "--", "true"],
        ["k"],
        ["k", "--"],
        ["-w", "-1", "k", "true"],
        ["--ttl", "0.2", "k", "true"],
        ["-E", "256", "k", "true"],
        ["-w", "soon", "k", "true"],
    ],
)
def test_wrong_arguments_are_exit_code_2(client: FakeClient, arguments: list[str]) -> None:
    """Nothing is asked of the cluster."""
    assert holdfast_lock(*arguments).exit_code == 2
    assert client.asked == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_waiting(client: FakeClient, number: signal.Signals) -> None:
    """Stopping a service that waits for a lock takes no time, and leaves nothing in the queue."""
    client.outcome = "wait"
    task = asyncio.ensure_future(locking._lock(request("true")))
    await client.waiting.wait()
    os.kill(os.getpid(), number)
    assert await task == 128 + number
    assert client.withdrawn


@pytest.mark.parametrize(("is_lost", "exit_code"), [(False, 7), (True, 75)])
async def test_a_signal_after_the_command_does_not_undo_how_it_ended(
    client: FakeClient, line: Any, is_lost: bool, exit_code: int
) -> None:
    """The release and the closing may take seconds. 128+n would say that the command was not run."""
    client.hangs_at_the_end = True
    rest = f'read nothing < "{line.never}"' if is_lost else "exit 7"
    script = f"echo up > {line.path}; {rest}"
    working = asyncio.ensure_future(locking._lock(request("/bin/sh", "-c", script)))
    assert await line.said() == "up"
    if is_lost:
        client.lose()
    await client.ending.wait()
    os.kill(os.getpid(), signal.SIGINT)
    assert await working == exit_code


async def test_a_signal_while_the_command_runs_is_the_commands(
    client: FakeClient, line: Any
) -> None:
    """It dies of it; we tell so, and give the lock back."""
    script = f'echo up > {line.path}; read nothing < "{line.never}"'
    task = asyncio.ensure_future(locking._lock(request("/bin/sh", "-c", script)))
    assert await line.said() == "up"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 128 + signal.SIGTERM
    assert client.released


async def test_a_lost_lock_stops_the_command_and_is_75(
    client: FakeClient, line: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM first: the command may clean up. Its own status does not matter any more."""
    script = (
        f'trap "echo cleaned > {line.path}; exit 0" TERM; echo up > {line.path};'
        f' read nothing < "{line.never}"'
    )
    task = asyncio.ensure_future(locking._lock(request("/bin/sh", "-c", script)))
    assert await line.said() == "up"
    client.lose()
    assert await line.said() == "cleaned"
    assert await task == 75
    assert "lost the lock 'k'; stopping the command" in capsys.readouterr().err


async def test_a_command_that_will_not_stop_is_killed_after_the_grace_time(
    client: FakeClient, line: Any
) -> None:
    """Two at work under one key is what this program is there to prevent."""
    script = f'trap "" TERM; echo up > {line.path}; read nothing < "{line.never}"'
    task = asyncio.ensure_future(locking._lock(request("/bin/sh", "-c", script, grace=0.05)))
    assert await line.said() == "up"
    client.lose()
    assert await task == 75
