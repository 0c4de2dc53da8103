"""Ends that nobody planned: a dropped client, a signal, a fork, an interpreter that just stops. No lock stays behind that a
reachable cluster could have been told of, and nothing hangs."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast import core as core_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process of its own; it may not take longer than a bound."""
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_quiet() -> bool:
    """No task of ours is left."""
    return not any("holdfast" in each.get_name() for each in asyncio.all_tasks())


async def test_a_dropped_client_is_closed_when_it_is_collected(
    cluster: Any, eventually: Any
) -> None:
    """Forgotten without `aclose`: its session must not be renewed for ever by tasks that nobody can reach."""
    client = holdfast.connect(cluster.urls)
    assert await client.acquire_lock("k")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    await eventually(lambda: not cluster.holds)
    await eventually(is_quiet)


async def test_a_client_in_use_is_not_collected(cluster: Any, eventually: Any) -> None:
    """A block keeps its client, though nothing else does."""

    def lock() -> Any:
        return holdfast.connect(cluster.urls).lock("k")

    async with lock() as grant:
        gc.collect()
        await asyncio.sleep(0)
        assert cluster.holds["k"][0] == grant.token
        assert not grant.is_lost
    await eventually(lambda: not cluster.holds)
    gc.collect()
    await eventually(lambda: cluster.calls("sessions/close"))
    await eventually(is_quiet)


def test_a_client_that_outlives_its_loop_is_dropped_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing can be sent without a loop; the TTL does the rest, and nobody is shown a traceback."""
    client = holdfast.connect("http://127.0.0.1:1")
    loop = client._sessions._loop = asyncio.new_event_loop()
    loop.close()
    with caplog.at_level("DEBUG", logger="holdfast"):
        del client
        gc.collect()
    assert "after its event loop had ended" in caplog.text


def test_a_collector_never_waits(threaded_cluster: Any) -> None:
    """It may come by on any thread, at any line: it only asks for the end."""
    hf = holdfast.connect_sync(threaded_cluster.urls)
    assert hf.acquire_lock("k")
    core = hf._running()
    stuck, go_on = threading.Event(), threading.Event()

    def block_the_loop() -> None:
        stuck.set()
        go_on.wait(10)

    core._loop.call_soon_threadsafe(block_the_loop)
    assert stuck.wait(10)
    thread = core._thread
    del hf, core
    gc.collect()  # would hang here for SHUTDOWN_SECONDS if it waited
    assert thread.is_alive()
    go_on.set()
    thread.join(10)
    assert threaded_cluster.holds == {}


SIGTERM_BLOCKING = """
import sys, holdfast
assert holdfast.release_on_sigterm()
hf = holdfast.connect_sync(sys.argv[1])
assert hf.acquire_lock("plain")
try:
    with hf.lock("block"):
        print("holding", flush=True)
        sys.stdin.read()
finally:
    print("unwound", flush=True)
"""

SIGTERM_ASYNC = """
import asyncio, sys, holdfast
assert holdfast.release_on_sigterm()
async def main():
    async with holdfast.connect(sys.argv[1]) as hf:
        assert await hf.acquire_lock("plain")
        try:
            async with hf.lock("block"):
                print("holding", flush=True)
                await asyncio.Event().wait()
        finally:
            print("unwound", flush=True)
asyncio.run(main())
"""

SIGTERM_WAITING = """
import sys, threading, holdfast
assert holdfast.release_on_sigterm()
hf = holdfast.connect_sync(sys.argv[1])
assert hf.acquire_lock("plain")
assert hf.acquire_lock("block")
try:
    print("holding", flush=True)
    hf.acquire_lock("taken", wait=None)
finally:
    print("unwound", flush=True)
"""


@pytest.mark.parametrize("script", [SIGTERM_BLOCKING, SIGTERM_ASYNC, SIGTERM_WAITING])
def test_sigterm_releases(threaded_cluster: Any, script: str) -> None:
    """The process ends in order: blocks unwind first, then everything is released; 143 as a shell would say."""
    threaded_cluster.take("taken")
    process = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", script, threaded_cluster.urls[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    assert {"plain", "block"} <= set(threaded_cluster.holds)
    if script is SIGTERM_WAITING:
        for _ in range(1000):  # another process: polled, with a bound
            if threaded_cluster.waiters:
                break
            threading.Event().wait(0.01)
        assert threaded_cluster.waiters
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("unwound\n", "", 143)
    assert set(threaded_cluster.holds) == {"taken"}
    assert threaded_cluster.waiters == []


THEIR_HANDLER = """
import signal, sys, holdfast
signal.signal(signal.SIGTERM, lambda *_: print("theirs", flush=True))
assert holdfast.release_on_sigterm() is False
signal.raise_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
assert holdfast.release_on_sigterm() is False
signal.raise_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
assert holdfast.release_on_sigterm() is True
assert holdfast.release_on_sigterm() is False
try:
    signal.raise_signal(signal.SIGTERM)
except SystemExit as end:
    print(end.code)
signal.raise_signal(signal.SIGTERM)
print("a second one does not interrupt the unwinding")
"""


def test_somebody_else_s_handler_is_not_touched() -> None:
    """Only the default, which would kill on the spot, is replaced."""
    ran = run(THEIR_HANDLER)
    assert ran.stderr == ""
    assert ran.stdout == "theirs\n143\na second one does not interrupt the unwinding\n"


CHILD_THAT_ENDS_NORMALLY = """
import gc, json, os, sys
import holdfast

hf = holdfast.connect_sync(sys.argv[1].split(","), ttl=20.0)
assert hf.acquire_lock("parent")
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "uses":
        assert hf.acquire_lock("parent") is False
        assert hf.acquire_lock("child")
    del hf
    gc.collect()
    sys.exit(0)  # an ordinary end: destructors, atexit, everything (a gunicorn worker ends like this)
_, status = os.waitpid(pid, 0)

told = {"status": status, "again": hf.acquire_lock("again"), "release": hf.release_lock("parent"),
        "failed": hf.grant_of("again").renewals_failed}
hf.close()
print(json.dumps(told))
"""


@pytest.mark.parametrize("child", ["uses", "idle"])
def test_a_child_that_ends_normally_does_not_disturb_its_parent(
    threaded_cluster: Any, child: str
) -> None:
    """Its destructors would take the shared connections out of the parent's selector, and the parent would wait in vain."""
    ran = run(CHILD_THAT_ENDS_NORMALLY, ",".join(threaded_cluster.urls), child)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == {"status": 0, "again": True, "release": True, "failed": 0}
    assert threaded_cluster.holds == {}
    nodes = {each.node for each in threaded_cluster.calls("locks/acquire")[-1:]}
    first = threaded_cluster.calls("locks/acquire")[0].node
    assert nodes == {first}, "the parent had to leave its node: its connections were broken"


def test_the_end_of_the_process_waits_for_a_client_that_was_just_dropped(
    threaded_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time 0: the last reference to a client goes, and its closing begins. Time 1: the process ends. Without the wait the thread
    would be killed before it has told the cluster, and the lock would stay until its lease is over."""
    monkeypatch.setattr(core_module, "_cores", weakref.WeakSet())  # of this test alone
    hf = holdfast.connect_sync(threaded_cluster.urls, ttl=20.0)
    assert hf.acquire_lock("k")
    core = hf._running()
    gate, joined = threading.Event(), core._thread.join
    core._loop.call_soon_threadsafe(
        gate.wait
    )  # the closing cannot go on before somebody waits for it

    def join(seconds: float) -> None:
        gate.set()
        joined(seconds)

    monkeypatch.setattr(core._thread, "join", join)
    assert core.begin_stop()
    core_module._stop_all()
    gate.set()
    assert not core._thread.is_alive()
    assert threaded_cluster.holds == {}


CHILD_OF_AN_IDLE_LOOP = """
import asyncio, gc, json, os, sys
import holdfast

hf = holdfast.connect(sys.argv[1].split(","), ttl=20.0)
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
assert loop.run_until_complete(hf.acquire_lock("parent"))
pid = os.fork()
if pid == 0:
    async def work():
        async with hf.lock("child"):
            pass
        await hf.aclose()
    asyncio.run(work())
    del hf
    gc.collect()
    sys.exit(0)
_, status = os.waitpid(pid, 0)

async def go_on():
    assert await hf.acquire_lock("again")
    await hf.aclose()

loop.run_until_complete(go_on())
loop.close()
print(json.dumps({"status": status}))
"""


def test_the_connections_of_an_idle_loop_survive_its_child(threaded_cluster: Any) -> None:
    """What the child inherits is never collected in it, so the parent's selector goes on knowing its connections."""
    ran = run(CHILD_OF_AN_IDLE_LOOP, ",".join(threaded_cluster.urls))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == {"status": 0}
    first, *_, last = threaded_cluster.calls("locks/acquire")
    assert last.node == first.node, "the parent had to leave its node: its connection was broken"


ASYNC_FORK = """
import asyncio, json, os, sys
import holdfast

hf = holdfast.connect(sys.argv[1].split(","))

async def parent():
    async with hf.lock("parent") as grant:
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(grant))
        _, status = os.waitpid(pid, 0)
        held = await hf.acquire_lock("of-the-child")
        print(json.dumps({"child": status, "remaining": grant.remaining() > 5, "own": held}))
    await hf.aclose()

def in_child(grant):
    async def work():
        assert grant.remaining() == 0.0
        assert grant.lost_code is holdfast.LossCode.FORKED
        assert await hf.acquire_lock("parent") is False
        assert await hf.acquire_lock("of-the-child")
        await hf.aclose()
        return 0
    asyncio.events._set_running_loop(None)  # what is left of the parent's loop
    try:
        return asyncio.run(work())
    except BaseException:
        import traceback
        traceback.print_exc()
        return 1

asyncio.run(parent())
"""


def test_an_asynchronous_client_is_fresh_in_a_child(threaded_cluster: Any) -> None:
    """Made, and even used, before the fork: the child has another session and none of the holds."""
    ran = run(ASYNC_FORK, ",".join(threaded_cluster.urls))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == {"child": 0, "remaining": True, "own": True}
    assert len(threaded_cluster.calls("sessions")) == 2


MEMORY_FORK = """
import asyncio, gc, os, sys
import holdfast

async def one(hf, key):
    async with hf.lock(key) as grant:
        return grant.token

first = holdfast.connect_sync("http://127.0.0.1:1")  # the order of making and importing does not matter
for address in ("memory://", "memory://" + sys.argv[1]):
    hf, blocking = holdfast.connect(address), holdfast.connect_sync(address)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(hf.acquire_lock("parent"))
    assert loop.run_until_complete(one(hf, "of-the-child"))
    pid = os.fork()
    if pid == 0:
        try:
            if address == "memory://":  # a table of the child's own, and none of the parent's holds in it
                assert asyncio.run(one(hf, "parent")) == 1
                assert blocking.acquire_lock("parent")
            else:  # the file is the parent's: refused in words, and not at the fork
                try:
                    asyncio.run(one(hf, "k"))
                except ValueError as error:
                    assert "used by another process" in str(error)
                else:
                    raise AssertionError("two processes on one file")
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert loop.run_until_complete(hf.release_lock("parent")), "a call from outside of all tasks has one owner"
    loop.run_until_complete(hf.aclose())
    loop.close()
    blocking.close()
"""


def test_a_child_has_a_memory_store_of_its_own(tmp_path: Path) -> None:
    """A store forgets the parent's in a child as well; the client opens it only when it is used, whatever comes first."""
    ran = run(MEMORY_FORK, str(tmp_path / "locks"))
    assert (ran.returncode, ran.stderr) == (0, "")


PREFORK = """
import multiprocessing, sys
import holdfast

hf = holdfast.connect_sync(sys.argv[1].split(","))

def work(number):
    with hf.lock(f"job/{number}") as grant:
        return grant.token

if __name__ == "__main__":
    assert hf.acquire_lock("parent")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        tokens = pool.map(work, range(12), chunksize=1)
    assert len(set(tokens)) == 12
    assert hf.release_lock("parent")
    hf.close()
"""


def test_a_prefork_pool_shares_one_client_object(threaded_cluster: Any) -> None:
    """Celery's and gunicorn's shape: made once in the parent, used in every worker, a session for each process."""
    ran = run(PREFORK, ",".join(threaded_cluster.urls))
    assert (ran.returncode, ran.stderr) == (0, "")
    sessions = {each.body["session"] for each in threaded_cluster.calls("locks/acquire")}
    assert 2 <= len(sessions) <= 4


DEAD_CLUSTER = """
import sys, holdfast
clients = [holdfast.connect_sync(sys.argv[1], ttl=30.0) for _ in range(5)]
assert all(hf.acquire_lock(f"k{n}") for n, hf in enumerate(clients))
print("holding", flush=True)
sys.stdin.readline()
"""


def test_the_end_of_the_process_does_not_wait_for_a_dead_cluster(
    threaded_cluster: Any, eventually: Callable[..., Any]
) -> None:
    """Five clients whose cluster has gone end together within the bound of one, not after the sum."""
    process = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", DEAD_CLUSTER, threaded_cluster.urls[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    Step = type(threaded_cluster._next_step("nothing", 0))
    gate = threaded_cluster.gate()
    threaded_cluster.script("sessions/close", *[Step(acts=False, gate=gate)] * 100)
    _, err = process.communicate("\n", timeout=12)  # one client alone takes 3 s to give up
    assert process.returncode == 0
    assert "Traceback" not in err


async def test_sessions_are_closed_in_the_order_in_which_they_were_opened(kit: Any) -> None:
    """The order of their addresses would be another one in each run, and a seed of the simulator would not repeat."""
    client = kit.client()
    ended: list[str] = []
    for number in range(20):
        assert await client.acquire_lock(f"k{number}", max_hold=60.0)
    opened = list(kit.cluster.sessions)
    for session in client._sessions._open:
        session.ended.add_done_callback(lambda _, name=session.id: ended.append(name))
    await client.aclose()
    assert ended == opened
