"""The blocking face: the same client on a background thread, for many threads, and across a fork."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast import core as core_module
from holdfast import sync
from holdfast.client import Ports
from holdfast.holds import Holds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hf(threaded_cluster: Any) -> Iterator[holdfast.Client]:
    with holdfast.connect_sync(threaded_cluster.urls, timeout=5.0) as client:
        yield client


def test_the_two_plain_calls(hf: Any, threaded_cluster: Any) -> None:
    """As in the readme: acquire, work, release in a `finally`."""
    assert hf.acquire_lock("k") is True
    assert hf.grant_of("k").fence == 1
    assert hf.acquire_lock("k") is False
    assert hf.release_lock("k") is True
    assert hf.release_lock("k") is False
    assert hf.grant_of("k") is None


def test_the_block(hf: Any, threaded_cluster: Any) -> None:
    """A grant inside, nothing held outside; a held lock raises and the object can be used again."""
    lock = hf.lock("k")
    with lock as grant:
        assert grant.safe_for(5.0)
        with pytest.raises(holdfast.NotAcquired), hf.lock("k", wait=60):
            pytest.fail("entered twice")
        with pytest.raises(RuntimeError), lock:
            pytest.fail("entered twice")
    assert threaded_cluster.holds == {}
    with lock as grant:
        assert grant.token == 2


def test_looking(hf: Any) -> None:
    """The same reads as the asynchronous client."""
    assert hf.status().leader == "n1"
    assert len(hf.statuses()) == 3
    assert hf.read_lock("k").holders == ()
    assert hf.list_locks().locks == ()


def test_a_lock_belongs_to_its_thread(hf: Any) -> None:
    """Another thread can neither release it nor see its grant; each key has one holder among many threads."""
    assert hf.acquire_lock("k")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(hf.release_lock, "k").result() is False
        assert pool.submit(hf.grant_of, "k").result() is None
    assert hf.release_lock("k")

    together = threading.Barrier(8)

    def compete() -> bool:
        together.wait()
        return bool(hf.acquire_lock("contended"))

    with ThreadPoolExecutor(8) as pool:
        got = [each.result() for each in [pool.submit(compete) for _ in range(8)]]
    assert got.count(True) == 1


def test_a_grant_may_be_looked_up_while_others_come_and_go() -> None:
    """`grant_of` reads the books on the caller's thread, and the client's loop writes them: here, in the middle of the reading."""
    books = Holds()
    here, elsewhere = object(), object()

    class Shared:
        keys = ("k",)

        def __init__(self, token: int, holder: object, meanwhile: Any = lambda: None) -> None:
            self.token, self._of, self._meanwhile = token, holder, meanwhile

        @property
        def _holder(self) -> object:
            self._meanwhile()
            return self._of

    def another() -> None:
        first._meanwhile = lambda: None
        books.add(Shared(3, elsewhere), session)

    session: Any = object()
    first, mine = Shared(1, elsewhere), Shared(2, here)
    for each in (first, mine):
        books.add(each, session)
    books.mark_plain(mine)
    first._meanwhile = another
    assert books.plain("k", here) is mine


def test_losing_is_told_and_raised(threaded_cluster: Any) -> None:
    """No thread can be cancelled: `on_lost` is called on a thread from which the client may be used, and leaving raises."""
    told = threading.Event()

    def on_lost(grant: holdfast.Grant) -> None:
        assert client.release_lock("k") is False
        told.set()

    client = holdfast.connect_sync(threaded_cluster.urls, on_lost=on_lost)
    with client as hf:
        core: Any = hf._running()
        with pytest.raises(holdfast.LockLost), hf.lock("k") as grant:  # noqa: PT012
            core._loop.call_soon_threadsafe(lambda: core.client._sessions._shared.end("for a test"))
            assert told.wait(5)
            assert grant.remaining() == 0.0
            assert grant.lost_reason == "for a test"
        assert hf.acquire_lock("k")


def test_an_interrupted_wait_gives_up_its_place(hf: Any, threaded_cluster: Any) -> None:
    """Ctrl-C while waiting: the waiter is withdrawn."""
    threaded_cluster.take("k")
    core = hf._running()

    class Interrupted(BaseException):
        pass

    calls: list[core_module.Call] = []
    original = core_module.Call.start

    def start(call: core_module.Call) -> None:
        original(call)
        calls.append(call)
        call.done.set_exception(Interrupted())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module.Call, "start", start)
        patch.setattr(core_module.Call, "_finished", lambda *_: None)
        with pytest.raises(Interrupted):
            hf.acquire_lock("k", wait=20)
    wait_for(core, lambda: calls[0]._task is not None and calls[0]._task.cancelled())
    assert hf.acquire_lock("k") is False


def test_an_interruption_just_after_the_grant_gives_it_back(hf: Any, threaded_cluster: Any) -> None:
    """Nothing falls between finishing and being abandoned."""
    core = hf._running()
    holder = hf._holder()
    call = core_module.Call(
        core.client._acquire_plain("k", 0.0, None, holder),
        lambda got: core.client._release_plain("k", holder) if got else None,
    )
    core._loop.call_soon_threadsafe(call.start)
    assert call.done.result(5) is True
    core._loop.call_soon_threadsafe(call.abandon)
    wait_for(core, lambda: not threaded_cluster.holds)


def wait_for(core: Any, condition: Any) -> None:
    """Until it is so, a turn of the client's loop at a time."""
    for _ in range(100_000):
        if condition():
            return
        turn = threading.Event()
        core._loop.call_soon_threadsafe(turn.set)
        turn.wait(5)
    pytest.fail("it never came true")


def test_closing(threaded_cluster: Any) -> None:
    """Releases, ends the thread, wakes who waits, and refuses further use."""
    hf = holdfast.connect_sync(threaded_cluster.urls)
    assert hf.acquire_lock("mine")
    threaded_cluster.take("k")
    thread = hf._running()._thread
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hf.acquire_lock, "k", 60)
        wait_for(hf._core, lambda: threaded_cluster.waiters)
        hf.close()
        with pytest.raises(holdfast.ClientClosed):
            waiting.result(5)
    assert not thread.is_alive()
    assert list(threaded_cluster.holds) == ["k"]
    with pytest.raises(holdfast.ClientClosed):
        hf.acquire_lock("mine")
    assert hf.release_lock("mine") is False
    hf.close()


def test_a_dropped_client_does_not_hold_for_ever(threaded_cluster: Any) -> None:
    """Forgotten without `close`: its session is closed when it is collected."""
    hf = holdfast.connect_sync(threaded_cluster.urls)
    assert hf.acquire_lock("k")
    thread = hf._running()._thread
    del hf
    thread.join(5)
    assert not thread.is_alive()
    assert threaded_cluster.holds == {}


def test_it_does_not_deadlock_on_its_own_loop(hf: Any) -> None:
    """Used from its own event loop it would wait for itself: refused with an explanation."""
    core = hf._running()
    outcome: list[BaseException] = []
    done = threading.Event()

    def misuse() -> None:
        try:
            hf.status()
        except RuntimeError as error:
            outcome.append(error)
        done.set()

    core._loop.call_soon_threadsafe(misuse)
    assert done.wait(5)
    assert "own event loop" in str(outcome[0])


def test_ports_are_made_for_each_process(threaded_cluster: Any) -> None:
    """Whoever replaces time or randomness is asked when the client starts, not before."""
    made: list[Ports] = []

    def ports() -> Ports:
        made.append(Ports())
        return made[-1]

    settings = holdfast.connect_sync(threaded_cluster.urls)._settings
    with sync.Client(settings, ports) as hf:
        assert made == []
        assert hf.acquire_lock("k")
        assert len(made) == 1


FORKING = """
import json, os, sys
import holdfast

def child(hf, grant):
    told = {"remaining": grant.remaining(), "reason": grant.lost_reason,
            "released": hf.release_lock("plain"), "grant_of": hf.grant_of("plain") is None,
            "held_by_parent": hf.acquire_lock("k"), "own": hf.acquire_lock("of-the-child")}
    told["own_release"] = hf.release_lock("of-the-child")
    return told

with holdfast.connect_sync(sys.argv[1].split(",")) as hf:
    assert hf.acquire_lock("plain")
    read, write = os.pipe()
    with hf.lock("k") as grant:
        pid = os.fork()
        if pid == 0:
            try:
                told = child(hf, grant)
                hf.close()
            except BaseException as error:
                told = {"error": repr(error)}
            os.write(write, json.dumps(told).encode())
            os._exit(0)
        os.close(write)
        told = json.loads(os.read(read, 65536))
        os.waitpid(pid, 0)
        told["parent_remaining"] = grant.remaining()
    told["parent_release"] = hf.release_lock("plain")
    print(json.dumps(told))
"""


def test_a_forked_child_gets_a_fresh_client(threaded_cluster: Any) -> None:
    """Another session, none of the parent's holds; and the parent's go on undisturbed."""
    urls = ",".join(threaded_cluster.urls)
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, urls],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told.pop("parent_remaining") > 5
    assert "forked" in told.pop("reason")
    assert told == {
        "remaining": 0.0,
        "released": False,
        "grant_of": True,
        "held_by_parent": False,
        "own": True,
        "own_release": True,
        "parent_release": True,
    }
    assert len(threaded_cluster.calls("sessions")) == 2
    assert len(threaded_cluster.calls("sessions/close")) == 2
    assert run.stderr == ""


LEAVING = """
import sys, holdfast
hf = holdfast.connect_sync(sys.argv[1])
assert hf.acquire_lock("k")
"""


def test_a_process_that_just_ends_gives_its_locks_back(threaded_cluster: Any) -> None:
    """Without `close`, and without a word on stderr."""
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", LEAVING, threaded_cluster.urls[0]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert threaded_cluster.holds == {}


def test_a_call_that_meets_the_end_of_the_loop_is_told(threaded_cluster: Any) -> None:
    """Handed over after the loop's last turn, when nobody would run it any more: it ends instead of waiting for ever."""
    hf = holdfast.connect_sync(threaded_cluster.urls)
    core = hf._running()
    hf.close()
    core.is_stopped = False  # as a thread saw it a moment before
    with pytest.raises(holdfast.ClientClosed):
        core.run(core.client.status())
    core.is_stopped = True

    async def nothing() -> None: ...

    call = core_module.Call(nothing(), lambda _: None)
    call.drop()
    assert call.done.cancelled()
