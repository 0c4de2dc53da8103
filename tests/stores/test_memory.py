"""Locks in memory: names, files, processes, forks, loops; and the table on a clock that the test moves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import holdfast
from holdfast.stores import memory_table
from holdfast.stores.base import Ask, Granted, Refusal
from holdfast.stores.memory_table import Hold, Table, Waiter

ONE_GRANT = """
import asyncio, sys, holdfast
async def main():
    async with holdfast.connect(sys.argv[1]) as client, client.lock("k") as grant:
        print(grant.token)
asyncio.run(main())
"""


def in_a_process(address: str) -> subprocess.CompletedProcess[str]:
    """Another process takes one lock and prints its token."""
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", ONE_GRANT, address], capture_output=True, text=True, check=False
    )


def test_tokens_never_repeat_after_a_restart_with_a_file(tmp_path: Path) -> None:
    """Each process has the next incarnation as the upper part of its tokens; without a file they begin at 1 again."""
    address = f"memory://{tmp_path / 'incarnation'}"
    tokens = [int(in_a_process(address).stdout) for _ in range(3)]
    assert tokens == [1, 2**32 + 1, 2 * 2**32 + 1]
    assert [int(in_a_process("memory://").stdout) for _ in range(2)] == [1, 1]


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """It would have locks of its own under the same name."""
    address = f"memory://{tmp_path / 'incarnation'}"
    async with holdfast.connect(address) as client:
        assert await client.acquire_lock("k")
        other = await asyncio.to_thread(in_a_process, address)
        assert other.returncode != 0
        assert "is used by another process" in other.stderr


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A wrong path must not destroy anything."""
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk")
    with pytest.raises(ValueError, match="is not a file of a memory store"):
        holdfast.connect(f"memory://{path}")
    assert path.read_text() == "remember the milk"
    with pytest.raises(ValueError, match="cannot be used"):
        holdfast.connect(f"memory://{tmp_path / 'missing' / 'file'}")


async def test_names_are_tables_of_their_own() -> None:
    """`memory://a` and `memory://b` have nothing to do with each other; two clients of one name share it."""
    async with (
        holdfast.connect("memory://a-name") as one,
        holdfast.connect("memory://another") as other,
        holdfast.connect("memory://a-name") as same,
    ):
        assert await one.acquire_lock("k")
        assert await other.acquire_lock("k")
        assert not await same.acquire_lock("k")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_with_an_empty_table() -> None:
    """The child has a fresh client and a fresh table: it does not hold its parent's lock, nor does that lock hold it up."""
    with holdfast.connect_sync("memory://forked") as client:
        assert client.acquire_lock("k")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                got = client.grant_of("k") is None and client.acquire_lock("k")
                os.write(write, b"yes" if got else b"no")
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 10) == b"yes"
        os.close(read)
        os.waitpid(child, 0)
        grant = client.grant_of("k")
        assert grant is not None
        assert grant.remaining() > 0.0


def test_a_waiter_on_another_loop_is_woken() -> None:
    """The holder is a task of one event loop, the waiter of another, on another thread."""
    waits, tokens = threading.Event(), []

    async def hold() -> None:
        async with holdfast.connect("memory://loops") as client:
            async with client.lock("k") as grant:
                tokens.append(grant.token)
                thread.start()
                while not (await client.read_lock("k")).queue_length:
                    pass  # each round lets the loop run
                assert not waits.is_set()
            await asyncio.to_thread(thread.join)

    async def wait() -> None:
        async with (
            holdfast.connect("memory://loops") as client,
            client.lock("k", wait=30.0) as grant,
        ):
            waits.set()
            tokens.append(grant.token)

    thread = threading.Thread(target=lambda: asyncio.run(wait()))
    asyncio.run(hold())
    assert tokens == [1, 2]


# -- the table


def ask(request_id: int, *keys: str, session: str = "one", wait_ms: int = 0) -> Ask:
    return Ask(session, request_id, keys, wait_ms, -1, None, None)


def nothing() -> None:
    """Nobody is woken."""


def test_a_lease_ends_to_the_moment_and_the_waiter_is_granted() -> None:
    """time 0: one holds, two waits; time 10: the lease of one ends. Not a moment before."""
    table, woken = Table(), []
    table.open_session(0.0, "one", 10.0, None)
    table.open_session(0.0, "two", 60.0, None)
    assert isinstance(table.acquire(0.0, ask(1, "k"), nothing), Granted)
    waiter = table.acquire(
        1.0, ask(1, "k", session="two", wait_ms=30_000), lambda: woken.append(True)
    )
    assert isinstance(waiter, Waiter)
    table.advance(9.999)
    assert waiter.outcome is None
    assert table.next_due() == 10.0
    table.advance(10.0)
    assert isinstance(waiter.outcome, Hold)
    assert woken == [True]
    granted = table.granted(10.0, waiter.outcome)
    assert granted.token == 2
    assert granted.previous == (holdfast.Previous(1, "expired"),)


def test_a_renewal_moves_the_end() -> None:
    """Renewed at 9, it ends at 19."""
    table = Table()
    table.open_session(0.0, "one", 10.0, None)
    table.renew(9.0, "one")
    table.advance(18.9)
    table.renew(18.9, "one")
    table.advance(28.8)
    table.renew(28.8, "one")
    with pytest.raises(Refusal, match="has expired"):
        table.renew(38.8, "one")


def test_what_is_remembered_is_bounded_and_says_what_it_forgot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One lock for each payment must not leak memory; None is never taken for "there was none"."""
    monkeypatch.setattr(memory_table, "PREVIOUS_REMEMBERED", 3)
    table = Table()
    table.open_session(0.0, "one", 10.0, None)
    for number in range(1, 8):
        granted = table.acquire(0.0, ask(number, f"k{number}"), nothing)
        assert isinstance(granted, Granted)
        table.release(0.0, "one", granted.token)
    again = table.acquire(0.0, ask(8, "k1"), nothing)
    assert isinstance(again, Granted)
    assert again.previous == (None,)
    assert again.previous_horizon == 4  # k1's hold had token 1: forgotten, and said to be
    kept = table.acquire(0.0, ask(9, "k7"), nothing)
    assert isinstance(kept, Granted)
    assert kept.previous == (holdfast.Previous(7, "released"),)
