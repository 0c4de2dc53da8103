"""Asking the cluster until there is a definite answer, or the time is over.

The rule: an attempt that may have taken effect is repeated only as the SAME request, so the caller passes only requests that
are idempotent: reads, and calls that carry a request id, a token, or an id chosen by the client. A refusal that was made
before the log saw the request (`no_leader`, `overloaded`) is repeated too. Every other answer of a node is definite and is
returned. If the time is over: `Unreachable` when no attempt can have taken effect, else `UnknownOutcome`.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from holdfast import retry, wire
from holdfast.errors import (
    BadRequest,
    HoldfastError,
    LimitReached,
    NoLongerKept,
    NotAcquired,
    NotAllowed,
    Refused,
    UnknownOutcome,
    Unreachable,
)
from holdfast.retry import Failure
from holdfast.transport import Answer, Endpoints, NoAnswer, NotSent, Request, Transport
from holdfast.values import value
from holdfast.views import MS_PER_SECOND, holders_of
from holdfast.why_not import CLOSED_CODES, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock

ATTEMPT_SECONDS: Final = 3.0
"""A node that is alive answers a call that does not wait in milliseconds, or says `no_leader` / 504. One that is silent for
this long is frozen or cut off: ask another."""
REASK_SECONDS: Final = 10.0
"""A waiting acquire is asked again, under its id and through the next endpoint, this often: a frozen node hides a grant for no
longer, and the wait at the cluster (at most 30 s a call) is extended long before it ends, which keeps the place in the queue."""
ASKS_PENDING_MAX: Final = 4
"""Older calls of one waiting acquire that may still be open; each should have been told that it was superseded."""

BUSY_CODES: Final = frozenset({wire.Code.NO_LEADER, wire.Code.OVERLOADED})
SESSION_GONE_CODES: Final = frozenset({wire.Code.SESSION_EXPIRED, wire.Code.NO_SUCH_SESSION})
NOT_ACQUIRED_CODES: Final = CLOSED_CODES | {
    wire.Code.HELD,
    wire.Code.WAIT_TIMEOUT,
    wire.Code.DEADLOCK,
}


@dataclass(slots=True)
class Tries:
    """What is known so far about one request that is being asked."""

    attempts: int = 0
    may_have_acted: bool = False
    last: str = "nothing was tried"


@value
class Conclusion:
    """The end of the asking: a definite answer, and whether an attempt before it may have acted."""

    answer: Answer
    may_have_acted: bool


@dataclass(slots=True)
class Requester:
    """Asks, with failover and backoff. One per client."""

    transport: Transport
    endpoints: Endpoints
    clock: Clock
    draw: Callable[[], float]
    policy: retry.Policy = field(default_factory=retry.Policy)

    async def ask(
        self,
        request: Request,
        *,
        give_up_at: float,
        attempt_seconds: float = ATTEMPT_SECONDS,
        on_failure: Callable[[str], object] = lambda _: None,
        ended: asyncio.Future[str] | None = None,
    ) -> Conclusion:
        """One attempt after the other until a definite answer. Raises `Unreachable`, `UnknownOutcome`. `on_failure` is told of
        each attempt that brought none. `ended`: once it is done there is no reason for another."""
        tries: Tries | None = None
        while True:
            endpoint = self.endpoints.current
            seconds = min(attempt_seconds, max(give_up_at - self.clock.now(), 0.0))
            try:
                answer = await self.transport.attempt(endpoint, request, seconds=seconds)
            except NotSent as error:
                outcome = _Failed(Failure.NOT_SENT, str(error))
            except NoAnswer as error:
                outcome = _Failed(Failure.UNKNOWN, str(error))
            else:
                failed = None if answer.status < 400 else _failed(endpoint, answer)
                if failed is None:
                    return Conclusion(answer, tries is not None and tries.may_have_acted)
                outcome = failed
            tries = tries or Tries()
            tries.attempts += 1
            on_failure(outcome.told)
            if ended is not None and ended.done():
                give_up_at = -math.inf
            await self._pause(tries, outcome, endpoint, give_up_at)

    async def ask_waiting(
        self,
        request_for: Callable[[int], Request],
        *,
        wait_until: float,
        patience: float,
        ended: asyncio.Future[str],
    ) -> Conclusion | None:
        """An acquire that waits. `request_for(wait_ms)` is the request; it is asked again in time, before the older call ends.

        A repeat attaches to the waiter, so the older call learns that it was superseded (504), which is ignored. The first
        definite answer counts: all calls speak of the same request. None: the session (`ended`) is over, and the waiter with
        it. Gives up `patience` seconds after `wait_until`.
        """
        give_up_at = wait_until + patience
        tries = Tries()
        pending: list[asyncio.Task[Answer | _Failed]] = []
        endpoint = self.endpoints.current
        try:
            while True:
                while len(pending) >= ASKS_PENDING_MAX:
                    pending.pop(0).cancel()
                left = max(wait_until - self.clock.now(), 0.0)
                wait_ms = wait_ms_of(left)
                tries.attempts += 1
                newest = asyncio.create_task(
                    self._attempt(endpoint, request_for(wait_ms), left + patience)
                )
                pending.append(newest)
                turn_at = self.clock.now() + (REASK_SECONDS if wait_ms else ATTEMPT_SECONDS)
                outcome = await self._first(pending, newest, turn_at, ended)
                if ended.done():
                    return None
                if isinstance(outcome, Answer):
                    return Conclusion(outcome, tries.may_have_acted)
                if outcome is None:  # silence, which is what waiting looks like
                    tries.may_have_acted = True
                    tries.last = f"{endpoint} did not answer"
                    endpoint = self.endpoints.after(endpoint)
                    if self.clock.now() >= give_up_at:
                        _give_up(tries)
                else:
                    await self._pause(tries, outcome, endpoint, give_up_at)
                    endpoint = self.endpoints.current
        finally:
            for task in pending:
                task.cancel()

    async def _first(
        self,
        pending: list[asyncio.Task[Answer | _Failed]],
        newest: asyncio.Task[Answer | _Failed],
        turn_at: float,
        ended: asyncio.Future[str],
    ) -> Answer | _Failed | None:
        """The first definite answer of any call, or what came of the newest, or None: nothing by `turn_at`."""
        timer = asyncio.create_task(self.clock.sleep_until(turn_at))
        try:
            while True:
                awaited: list[asyncio.Future[Any]] = [*pending, timer, ended]
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                for task in [each for each in pending if each.done()]:
                    outcome = task.result()
                    pending.remove(task)
                    if isinstance(outcome, Answer) or task is newest:
                        return outcome
                if timer.done() or ended.done():
                    return None
        finally:
            timer.cancel()

    async def _attempt(self, endpoint: str, request: Request, seconds: float) -> Answer | _Failed:
        try:
            answer = await self.transport.attempt(endpoint, request, seconds=seconds)
        except NotSent as error:
            return _Failed(Failure.NOT_SENT, str(error))
        except NoAnswer as error:
            return _Failed(Failure.UNKNOWN, str(error))
        return answer if answer.status < 400 else _failed(endpoint, answer) or answer

    async def _pause(self, tries: Tries, failed: _Failed, endpoint: str, give_up_at: float) -> None:
        """Note what happened, move to the next endpoint, wait; raises when it is time to give up."""
        tries.last = failed.told
        tries.may_have_acted |= failed.failure is Failure.UNKNOWN
        leave = self.endpoints.overloaded if failed.is_overloaded else self.endpoints.failed
        leave(endpoint)
        now = self.clock.now()
        delay = retry.decide(
            self.policy,
            failure=failed.failure,
            attempts=tries.attempts,
            endpoints=len(self.endpoints),
            now=now,
            give_up_at=give_up_at,
            draw=self.draw(),
            retry_after=failed.retry_after,
        )
        if delay is None:
            _give_up(tries)
        if delay > 0:
            await self.clock.sleep_until(now + delay)


@dataclass(frozen=True, slots=True)
class _Failed:
    failure: Failure
    told: str
    retry_after: float = 0.0
    is_overloaded: bool = False


def _failed(endpoint: str, answer: Answer) -> _Failed | None:
    """Whether an answer that is no success is a reason to ask again. None: it is definite."""
    code = answer.body.get("code")
    told = f"{endpoint}: {code or answer.status}: {answer.body.get('detail', '')}"
    if code in BUSY_CODES:
        after = float(answer.body.get("retry_after_ms") or 0) / MS_PER_SECOND
        return _Failed(Failure.REFUSED, told, after, code == wire.Code.OVERLOADED)
    if code == wire.Code.UNKNOWN_OUTCOME or answer.status >= 500:
        return _Failed(Failure.UNKNOWN, told)
    return None


def wait_ms_of(seconds: float) -> int:
    """`wait_ms` for one call: what is left, rounded up, within what the cluster allows a call."""
    return wire.WAIT_MS_MAX if seconds * 1000 >= wire.WAIT_MS_MAX else math.ceil(seconds * 1000)


def _give_up(tries: Tries) -> NoReturn:
    if tries.may_have_acted:
        raise UnknownOutcome(f"no node could tell the outcome in time (last: {tries.last})")
    raise Unreachable(f"no node took the request in time (last: {tries.last})")


def refusal(answer: Answer, keys: tuple[str, ...] = ()) -> HoldfastError:
    """The exception for a definite answer that is not a success."""
    body: Any = answer.body
    code = str(body.get("code", f"http_{answer.status}"))
    detail = str(body.get("detail") or body.get("title") or "refused")
    if (other := why_not(code, body, keys)) is not None:
        return other
    if code in NOT_ACQUIRED_CODES:
        return NotAcquired(
            f"{', '.join(map(repr, keys)) or 'the lock'} was not acquired: {code}",
            keys=keys,
            code=code,
            holders=holders_of(body.get("holders")),
            queue_length=int(body.get("queue_length") or 0),
        )
    message = f"{code}: {detail}"
    status = answer.status
    if code in (wire.Code.BAD_REQUEST, wire.Code.TOO_LARGE):
        field = body.get("field")
        return BadRequest(message, code=code, detail=detail, status=status, field=field)
    if status in (401, 403):
        return NotAllowed(message, code=code, detail=detail, status=status)
    if code == wire.Code.LIMIT_REACHED:
        after_ms = body.get("retry_after_ms")
        return LimitReached(
            message,
            code=code,
            detail=detail,
            status=status,
            limit=body.get("limit"),
            retry_after=None if after_ms is None else float(after_ms) / MS_PER_SECOND,
        )
    if code == wire.Code.NO_LONGER_KEPT:
        first = int(body.get("first_revision") or 0)
        return NoLongerKept(message, code=code, detail=detail, status=status, first_revision=first)
    return Refused(message, code=code, detail=detail, status=status)
