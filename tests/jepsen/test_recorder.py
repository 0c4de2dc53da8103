"""The history of the client library: what is asked and answered at its transport becomes operations that the checkers can judge."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from holdfast.transport import Answer, NoAnswer, NotSent, Request
from holdfast_jepsen.checker import linearizability, orders
from holdfast_jepsen.history import History, Lease, Operation, Seen
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.workloads.mix import make
from holdfast_jepsen.workloads.recorder import (
    ACQUIRE,
    CANCEL,
    CLOSE,
    OPEN,
    RELEASE,
    RENEW,
    Recorder,
)

SESSION = "c1-0123456789abcdef"
SECOND, MILLISECOND = 1_000_000_000, 1_000_000
NOT_SENT, SILENCE = NotSent("nobody listens"), NoAnswer("silence")


class Script:
    """A transport that answers what it was told, one after the other; each attempt takes a second."""

    def __init__(self, *told: tuple[int, dict[str, Any]] | Exception) -> None:
        self.told = list(told)
        self.now = 0

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        self.now += SECOND
        told = self.told.pop(0)
        if isinstance(told, Exception):
            raise told
        return Answer(told[0], told[1], self.now / SECOND, endpoint)

    async def aclose(self) -> None: ...


async def recorded(
    path: str, body: dict[str, Any], *told: tuple[int, dict[str, Any]] | Exception
) -> Operation:
    """The one operation that these attempts at one request make."""
    history, script = History(), Script(*told)
    recorder = made(history, script)
    for _ in told:
        await attempt(recorder, path, body)
    [operation] = history.operations
    return operation


def made(history: History, script: Script) -> Recorder:
    return Recorder(
        script, history, "c1", now=lambda: script.now, ref=lambda session: f"ref of {session}",
        millisecond_ns=MILLISECOND,
    )  # fmt: skip


async def attempt(recorder: Recorder, path: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(NotSent, NoAnswer):
        await recorder.attempt("n1", Request("POST", path, body), seconds=9.0)


ACQUIRING = {"session": SESSION, "request_id": 3, "key": "k", "wait_ms": 0}
RELEASING = {"session": SESSION, "token": 7}
GRANTED = (200, {"token": 7, "fence": 7, "remaining_ms": 900})
BUSY = (503, {"code": "no_leader", "detail": ""})
UNKNOWN = (504, {"code": "unknown_outcome", "detail": ""})
HOLDER = {"token": 5, "session_ref": "s", "mode": "exclusive", "limit": None}
HELD = (409, {"code": "held", "detail": "", "holders": [HOLDER]})
LIMIT = (429, {"code": "limit_reached", "detail": ""})
NOT_HELD = (409, {"code": "not_held", "detail": ""})


async def test_all_attempts_under_one_name_are_one_operation() -> None:
    """Silence, no leader, nobody there, and at last a grant: called first, returned last, known by the session's reference."""
    operation = await recorded(ACQUIRE, ACQUIRING, SILENCE, BUSY, NOT_SENT, GRANTED)
    assert (operation.kind, operation.result, operation.token) == ("acquire", "ok", 7)
    assert (operation.called, operation.returned) == (0, 4 * SECOND)
    assert (operation.session, operation.keys, operation.request) == (
        f"ref of {SESSION}",
        ("k",),
        3,
    )


@pytest.mark.parametrize("told", [(SILENCE,), (UNKNOWN,), (BUSY,), (NOT_SENT,), (SILENCE, BUSY)])
async def test_what_says_nothing_definite_leaves_it_open(told: tuple[Any, ...]) -> None:
    """Who was told what is for the library to say; the history counts an operation without a return as unknown."""
    operation = await recorded(ACQUIRE, ACQUIRING, *told)
    assert (operation.result, operation.returned) == ("pending", None)


async def test_a_refusal_after_silence_is_definite_only_if_it_is_remembered_under_the_name() -> (
    None
):
    """`held` is the outcome of the request itself. A limit may have been reached after the first attempt was granted and ended."""
    held = await recorded(ACQUIRE, ACQUIRING, SILENCE, HELD)
    assert (held.result, held.holders) == ("held", (Seen(5, "s"),))
    assert (await recorded(ACQUIRE, ACQUIRING, SILENCE, LIMIT)).result == "unknown"
    assert (await recorded(ACQUIRE, ACQUIRING, LIMIT)).result == "refused"
    assert (await recorded(ACQUIRE, ACQUIRING, BUSY, LIMIT)).result == "refused"


async def test_a_release_that_finds_no_hold_may_have_been_done_by_an_attempt_before() -> None:
    """Only without such an attempt does `not_held` say that the hold had ended."""
    assert (await recorded(RELEASE, RELEASING, NOT_HELD)).result == "not_held"
    assert (await recorded(RELEASE, RELEASING, SILENCE, NOT_HELD)).result == "unknown"
    assert (await recorded(RELEASE, RELEASING, SILENCE, (200, {"released": True}))).result == "ok"


async def test_two_tokens_for_one_request_are_not_passed_over() -> None:
    other = (200, {"token": 8, "fence": 8, "remaining_ms": 900})
    with pytest.raises(AssertionError, match="two tokens"):
        await recorded(ACQUIRE, ACQUIRING, GRANTED, other)


async def test_a_lease_counts_from_the_sending_and_lasts_as_the_cluster_says() -> None:
    """Only an acknowledged opening or renewal begins one. An opening that finds an old session has what remains of it."""
    history, script = (
        History(),
        Script((201, {"remaining_ms": 700}), SILENCE, (200, {"remaining_ms": 1_000})),
    )
    recorder = made(history, script)
    await attempt(recorder, OPEN, {"session": SESSION, "ttl_ms": 1_000})
    await attempt(recorder, RENEW, {"session": SESSION})
    await attempt(recorder, RENEW, {"session": SESSION})
    session = f"ref of {SESSION}"
    assert history.leases == [
        Lease(session, 0, 700 * MILLISECOND), Lease(session, 2 * SECOND, 1_000 * MILLISECOND),
    ]  # fmt: skip
    assert history.operations == []


async def test_nothing_is_sent_or_written_down_for_a_process_that_is_gone() -> None:
    """Its code may still clean up behind itself; a killed process releases nothing."""
    history, script = History(), Script()
    recorder = made(history, script)
    recorder.is_over = True
    await attempt(recorder, RELEASE, RELEASING)
    assert (history.operations, script.now) == ([], 0)


async def test_closing_and_cancelling_are_what_may_end_holds() -> None:
    """A cancel names its acquire, whether it is answered or not."""
    cancel = await recorded(CANCEL, {"session": SESSION, "request_id": 3}, SILENCE)
    assert (cancel.kind, cancel.request, cancel.returned) == ("cancel", 3, None)
    close = await recorded(CLOSE, {"session": SESSION}, (200, {"released": 1}))
    assert (close.kind, close.returned) == ("end", SECOND)


def grant(token: int, called: int, session: str, request: int) -> Operation:
    return Operation(
        session, "acquire", ("k",), session, called, called + 1, "ok", token, request=request
    )


def test_a_cancel_excuses_no_other_hold_of_its_session() -> None:
    """Time 1: request 1 of session a is cancelled. Time 10: request 2 is granted. Time 20: b is granted the same key, though the
    lease of a is good for a minute. Were the cancel one of the whole session, nobody would be wrong."""
    history = History(leases=[Lease("a", 0, 60 * SECOND)])
    history.operations += [
        Operation("a", "cancel", (), "a", 1, request=1),
        grant(1, 10, "a", 2),
        grant(2, 20, "b", 1),
    ]
    assert [each.answer for each in linearizability.check(history)] == ["illegal"]
    history.operations[0].request = 2
    assert [each.answer for each in linearizability.check(history)] == ["ok"]


def test_a_release_is_acknowledged_again_after_a_close() -> None:
    """Time 10: granted to a, who closes the session at 20 and releases as well. Time 25: b is granted the key. Time 30: the
    release is answered: what the close has released is released. Without the close, a would have to hold it until then."""
    history = History(leases=[Lease("a", 0, 60 * SECOND), Lease("b", 0, 60 * SECOND)])
    release = Operation("a", "release", ("k",), "a", 29, 30, "ok", 1)
    history.operations += [grant(1, 10, "a", 1), release, grant(2, 25, "b", 1)]
    assert [each.answer for each in linearizability.check(history)] == ["illegal"]
    history.operations.append(Operation("a", "end", (), "a", 20, 21))
    assert [each.answer for each in linearizability.check(history)] == ["ok"]


def test_a_grant_in_the_log_that_nobody_was_told_of_is_found() -> None:
    """Two acquires, one refused and one unknown: the log may hold one grant beside those that were answered, and not two; and not
    one of another key."""
    unknown = grant(0, 10, "a", 2)
    unknown.result, unknown.returned = "unknown", None
    refused = grant(0, 20, "a", 3)
    refused.result = "refused"
    history = History([grant(1, 5, "a", 1), unknown, refused])
    log = {1: ("a", ("k",)), 2: ("a", ("k",))}
    assert orders.nothing_happened(history, log) == []
    [found] = orders.nothing_happened(history, log | {3: ("a", ("k",))})
    assert "token 3 was granted to session a on k" in found
    assert len(orders.nothing_happened(history, {1: ("a", ("k",)), 2: ("a", ("j",))})) == 1


async def test_a_session_that_is_called_over_before_its_lease_can_have_ended_is_found() -> None:
    """Opened for a minute, and refused after a second: no client would notice anything but that its lock is lost."""
    history, script = (
        History(),
        Script((201, {"remaining_ms": 60_000}), (410, {"code": "session_expired"})),
    )
    recorder = made(history, script)
    await attempt(recorder, OPEN, {"session": SESSION, "ttl_ms": 60_000})
    await attempt(recorder, RENEW, {"session": SESSION})
    [found] = orders.sessions_last(history)
    assert "was told at 2.000 s that its session was over, 57.400 s early" in found
    history.operations.append(Operation("c1", "end", (), f"ref of {SESSION}", SECOND))
    assert orders.sessions_last(history) == []


def test_a_workload_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no workload 'hot-kex'; there are hot-key, many-keys"):
        make("hot-kex", Rng(1))
