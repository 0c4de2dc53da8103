"""What a holder does with its hold besides releasing it: note how far it has come, and say that the work is done.

Rules:
* Both calls may be repeated, so an attempt whose outcome is not known is simply asked again, through another node if need be.
* A refusal as `not_held` means that the hold is over at the cluster: then it is lost here too, at once.
* `complete` ends the hold only when the cluster has acknowledged it. Until then leaving the block releases, as ever.
The asynchronous grant and the blocking one differ in nothing but how one waits for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from holdfast import wire
from holdfast.errors import LossCode
from holdfast.grant import Grant
from holdfast.requests import refusal
from holdfast.transport import Request
from holdfast.values import value

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from holdfast.holds import Holds
    from holdfast.session import Session
    from holdfast.transport import Answer


@value
class Work:
    """The way from a grant to the session that holds it."""

    session: Session
    holds: Holds

    async def checkpoint(self, grant: Grant, value: str) -> None:
        """See `AsyncGrant.checkpoint`."""
        check_text("a checkpoint", value)
        grant._notes += 1
        await self._call(grant, "checkpoint", {"value": value, "number": grant._notes})

    async def complete(self, grant: Grant, result: str, retain: float) -> None:
        """See `AsyncGrant.complete`."""
        check_text("a result", result)
        retain_ms = check_retain(retain)
        await self._call(grant, "complete", {"result": result, "retain_ms": retain_ms})
        self.holds.forget(grant)
        self.session.ended_by_holder(grant)

    async def _call(self, grant: Grant, what: str, more: dict[str, Any]) -> None:
        grant._raise_if_lost()
        if grant._state != "held":
            raise RuntimeError("the hold is over: it was released or completed")
        body = {"session": self.session.id, "token": grant.token, **more}
        answer = await self.session.ask(Request("POST", f"{wire.API_PREFIX}/locks/{what}", body))
        if answer.status < 400:
            return
        self._lose_if_over(grant, answer)
        await asyncio.sleep(
            0
        )  # a body that was just cancelled ends by that, and its block raises LockLost
        grant._raise_if_lost()
        raise refusal(answer, grant.keys)

    def _lose_if_over(self, grant: Grant, answer: Answer) -> None:
        if answer.body.get("code") != wire.Code.NOT_HELD:
            return
        ended = str(answer.body.get("ended") or "over")
        if ended == "forced":
            self.session.forced(grant.token)
        else:
            self.session.lose(grant, LossCode.SESSION_ENDED, f"the cluster says: {ended}")


class SharedGrant(Grant):
    """A hold that others may have at the same time: shared, or a permit of a semaphore. None of its holders can say alone how
    far the work is, so it notes and completes nothing. The same in both faces."""

    __slots__ = ()


class AsyncGrant(Grant):
    """An exclusive hold, in the asynchronous face."""

    __slots__ = ("_work",)

    _work: Work

    @property
    def fence(self) -> int:
        """What to hand to the resource, which refuses a lower one than it has seen: the token."""
        return self.token

    async def checkpoint(self, value: str) -> None:
        """Note how far the work has come: up to 4,096 bytes of text that the next holder finds as `previous_checkpoint`, should
        this hold end uncleanly. A clean end (released, completed) deletes it.

        Once this returns, a majority of the cluster has it on disk. A note replaces the one before; notes are numbered, so that a
        request that a silent node takes late changes nothing. Raises `LockLost` if the hold is over, `LimitReached`, `Refused`,
        `Unreachable`, `UnknownOutcome` (call it again), `TypeError`, `ValueError`.
        """
        await self._work.checkpoint(self, value)

    async def complete(self, result: str, *, retain: float) -> None:
        """Say that the work of the keys is done. Ends the hold; whoever asks for a key of it in the next `retain` seconds gets
        `AlreadyDone` with `result` instead of the lock. Leaving the block afterwards is clean.

        `result`: up to 4,096 bytes of text. `retain`: 1 second to 30 days; never forgotten earlier. When this returns, it is
        remembered by a majority. Refused (`LimitReached`) if the cluster cannot remember more: then the hold goes on. After
        `UnknownOutcome` call it again with the same result; if you leave the block instead, the lock is released, and the result
        may or may not be remembered: the fence and the payment key still keep the work from being done twice. Raises `LockLost`,
        `LimitReached`, `Refused`, `Unreachable`, `UnknownOutcome`, `TypeError`, `ValueError`.
        """
        await self._work.complete(self, result, retain)


class Runner(Protocol):
    """What runs a coroutine on the client's loop, and waits for it."""

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...


class BlockingGrant(Grant):
    """An exclusive hold, in the blocking face. Its calls wait."""

    __slots__ = ("_runner", "_work")

    def __init__(self, *, work: Work, runner: Runner, **fields: Any) -> None:
        super().__init__(**fields)
        self._work = work
        self._runner = runner

    @property
    def fence(self) -> int:
        """See `AsyncGrant.fence`."""
        return self.token

    def checkpoint(self, value: str) -> None:
        """See `AsyncGrant.checkpoint`."""
        self._raise_if_lost()  # in a forked child there is no loop that could say so
        self._runner.run(self._work.checkpoint(self, value))

    def complete(self, result: str, *, retain: float) -> None:
        """See `AsyncGrant.complete`."""
        self._raise_if_lost()
        self._runner.run(self._work.complete(self, result, retain))


def check_text(what: str, text: str) -> None:
    """Raises `TypeError` for what is no text. Its length is the cluster's to judge."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is text, not {type(text).__name__}")


def check_retain(retain: float) -> int:
    """Milliseconds. Raises `ValueError`."""
    retain_ms = retain * wire.MS_PER_SECOND
    if not (wire.RETAIN_MS_MIN <= retain_ms <= wire.RETAIN_MS_MAX):
        raise ValueError(
            f"retain is {wire.RETAIN_MS_MIN // 1000} to {wire.RETAIN_MS_MAX // 1000} seconds, not {retain!r}"
        )
    return round(retain_ms)


class GrantMaker(Protocol):
    """Makes the grant of one face from the fields of `Grant`."""

    def __call__(self, work: Work, fields: dict[str, Any]) -> Grant: ...


def async_grant(work: Work, fields: dict[str, Any]) -> Grant:
    """For the asynchronous face."""
    if fields["mode"] == "exclusive":
        grant = AsyncGrant(**fields)
        grant._work = work  # not through `__init__`, which would take every field apart and together once more
        return grant
    return SharedGrant(**fields)


def blocking_grant(runner: Runner) -> GrantMaker:
    """For the blocking face of this runner."""

    def make(work: Work, fields: dict[str, Any]) -> Grant:
        if fields["mode"] == "exclusive":
            return BlockingGrant(work=work, runner=runner, **fields)
        return SharedGrant(**fields)

    return make
