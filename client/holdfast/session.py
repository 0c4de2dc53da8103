"""One session: it is opened, renewed in the background, watched, and ended; what it holds ends with it.

Rules:
* The deadline counts from the send of an acknowledged request (`lease.py`); two tasks mind it. The renewer asks again after a
  third of the TTL; the watcher only looks at the clock, so that a renewal that hangs cannot hide the end.
* A session that is over is never used again. If nothing was held it is closed at the cluster as well. If something was, it is
  left to expire there: closing would record the hold as `released`, and the next holder would think that the work is done.
* A bounded hold (`lease.Bound`) has a session of its own. When the bound passes, the session is treated as that of a worker who
  died: it is not renewed any more, and the cluster ends it a TTL later at the most.
* An acquire that ends without a known outcome is withdrawn under its request id, and both that and a release are insisted on until
  the cluster says that it is done, for as long as the session lives: whatever happens to the caller, no lock and no waiter
  outlives the session or goes unnoticed within it.
It knows nothing of tasks and threads that hold locks; those belong to `client.py` and `lock.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from holdfast import wire
from holdfast.background import Chores
from holdfast.errors import HoldfastError, LossCode, UnknownOutcome, Unreachable
from holdfast.grant import LEASE_RAN_OUT, loss_of
from holdfast.lease import Lease, Phase, RequestIds
from holdfast.requests import (
    NOT_ACQUIRED_CODES,
    SESSION_GONE_CODES,
    Conclusion,
    refusal,
)
from holdfast.terms import PLAIN
from holdfast.transport import Answer, Lane, Request, Telling
from holdfast.views import MS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from holdfast.grant import Grant
    from holdfast.lease import Bound
    from holdfast.requests import Requester
    from holdfast.terms import Terms

log: logging.Logger = logging.getLogger("holdfast")

RENEW_ATTEMPT_FRACTION: Final = 1 / 6
"""Of the TTL: at least four attempts fit between the first renewal (a third) and the deadline."""
RENEW_ATTEMPT_SECONDS_MAX: Final = 5.0
"""With a long TTL there is still no reason to look at one silent node for longer."""
RENEW_AGAIN_FRACTION: Final = 1 / 20
"""Of the TTL: the pause after a renewal, a release or a withdrawal that was refused for a reason that may pass (a credential being
changed, a limit, a proxy)."""
REQUEST_SPREAD_MAX: Final = 4096
"""Outcomes that the cluster may have to remember for one long wait; then new acquires get a session of their own. Well below
what a node allows a session."""

_ACQUIRE: Final = f"{wire.API_PREFIX}/locks/acquire"
_RELEASE: Final = f"{wire.API_PREFIX}/locks/release"

ENDED_BY_OPERATOR: Final = "ended by an operator"

DECIDED_CODES: Final = NOT_ACQUIRED_CODES | SESSION_GONE_CODES | {wire.Code.NOT_HELD}
"""Refusals that the replicated machine itself gives to an acquire: they speak about every attempt under the request id."""

OVER_CODES: Final = SESSION_GONE_CODES | {wire.Code.NOT_HELD}
"""Refusals after which there is nothing left to release or to withdraw. Any other may pass, and the hold would outlive it."""


class Session:
    """An open session and what it holds."""

    def __init__(
        self,
        requester: Requester,
        *,
        session_id: str,
        lease: Lease,
        patience: float,
        callbacks: Chores,
        forget: Callable[[Grant], object],
        on_renewed: Callable[[float], object] | None = None,
    ) -> None:
        """`patience`: seconds for one call without a definite answer. `callbacks`: outlives the session. `forget`: takes a grant
        that is lost out of the client's books. `on_renewed`: told at each renewal how many seconds were left of the lease."""
        self.id: Final = session_id
        self.lease: Final = lease
        self.ids: Final = RequestIds()
        self.ended: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        self._requester = requester
        self._clock = requester.clock
        self._patience = patience
        self._callbacks = callbacks
        self._forget = forget
        self._on_renewed = () if on_renewed is None else (on_renewed,)
        self._chores = Chores()
        self._holds: dict[int, Grant] = {}
        self._last_failure = ""
        self._warned = False
        self._retired = False

    @classmethod
    async def open(
        cls,
        requester: Requester,
        *,
        session_id: str,
        ttl: float,
        owner: str | None,
        patience: float,
        callbacks: Chores,
        forget: Callable[[Grant], object],
        on_renewed: Callable[[float], object] | None = None,
    ) -> Session:
        """Open it at the cluster and begin to renew it. Raises what `refusal` makes, `Unreachable`, `UnknownOutcome`."""
        body: dict[str, Any] = {"ttl_ms": round(ttl * MS_PER_SECOND), "session": session_id}
        if owner is not None:
            body["owner"] = owner
        request = Request("POST", f"{wire.API_PREFIX}/sessions", body, lane=Lane.RENEW)
        give_up_at = requester.clock.now() + patience
        answer = (await requester.ask(request, give_up_at=give_up_at)).answer
        if answer.status >= 400:
            raise refusal(answer)
        lease = Lease.opened(ttl, answer.sent_at, _remaining(answer))
        session = cls(
            requester,
            session_id=session_id,
            lease=lease,
            patience=patience,
            callbacks=callbacks,
            forget=forget,
            on_renewed=on_renewed,
        )
        if isinstance(requester.transport, Telling):
            requester.transport.tell(session_id, session._told)
            session.ended.add_done_callback(session._tell_no_more)
        session._chores.spawn(session._renew(), "renew")
        session._chores.spawn(session._watch(), "watch")
        return session

    @property
    def is_usable(self) -> bool:
        """Whether a new acquire may go through it. Notices an end that the watcher has not seen yet."""
        if self.ended.done():
            return False
        if self._clock.now() >= self.lease.deadline:
            self.run_out()
            return False
        return not self._retired

    @property
    def is_crowded(self) -> bool:
        """One old wait makes the cluster remember too many outcomes."""
        return self.ids.spread >= REQUEST_SPREAD_MAX

    # -- acquire and release

    async def acquire(
        self,
        keys: tuple[str, ...],
        *,
        wait_until: float,
        context: str | None,
        terms: Terms = PLAIN,
    ) -> Answer | None:
        """The cluster's decision about one acquire, whatever it is; None: the session ended first, and the acquire with it.

        Raises `Unreachable` and `UnknownOutcome`. Any other way out (a cancellation) withdraws the request too.
        """
        request_id = self.ids.take()
        is_known = is_granted = False
        try:
            conclusion = await self._ask_acquire(keys, request_id, wait_until, context, terms)
            if conclusion is None:
                return None
            answer = conclusion.answer
            if (
                conclusion.may_have_acted
                and answer.status >= 400
                and answer.body.get("code") not in DECIDED_CODES
            ):
                raise UnknownOutcome("asked again, and refused for another reason") from refusal(
                    answer, keys
                )
            is_known, is_granted = True, answer.status < 400
            if not is_granted:
                self._end_if_gone(answer)
        except Unreachable:
            is_known = True
            raise
        else:
            return answer
        finally:
            if is_known:
                self.ids.settle(request_id)
                if not is_granted:  # the caller is about to call `hold`
                    self._bury_if_idle()
            else:
                self.withdraw(request_id)

    def hold(self, grant: Grant) -> None:
        """The grant is alive, and ends with this session."""
        self._holds[grant.token] = grant
        if grant._bound is not None:
            self._chores.spawn(self._watch_bound(grant, grant._bound), "bound")
        if self._warned:
            self._warn(grant)

    async def release(self, grant: Grant) -> bool:
        """Whether the cluster acknowledged the end of the hold. Completed in the background if the caller is cancelled, and
        insisted on for as long as the session lives."""
        if not grant._released():
            return False
        self._holds.pop(grant.token, None)
        body = {"token": grant.token, "session": self.id}
        request = Request("POST", _RELEASE, body)
        give_up_at = self._clock.now() + self._patience
        try:
            conclusion = await self._requester.ask(request, give_up_at=give_up_at, ended=self.ended)
        except BaseException as error:
            # Whatever became of this attempt, another under the same token does nothing twice.
            self._insist_in_background(request)
            if isinstance(error, HoldfastError):
                log.warning(
                    "release of token %d is not acknowledged, going on: %s", grant.token, error
                )
                return False
            raise
        answer = conclusion.answer
        is_released = answer.status < 400
        if not is_released:
            log.warning("release of token %d: %s", grant.token, refusal(answer))
            self._end_if_gone(answer)
            if answer.body.get("code") not in OVER_CODES:
                self._insist_in_background(request)
                return False
        if self._retired:
            self._bury_if_idle()
        return is_released

    async def ask(self, request: Request) -> Answer:
        """A call about a hold of this session that may be repeated. Raises `Unreachable`, `UnknownOutcome`."""
        give_up_at = self._clock.now() + self._patience
        answer = (await self._requester.ask(request, give_up_at=give_up_at)).answer
        self._end_if_gone(answer)
        return answer

    def ended_by_holder(self, grant: Grant) -> None:
        """The cluster acknowledged the end of the hold, and that was what the holder wanted."""
        grant._released()
        self._holds.pop(grant.token, None)
        self._bury_if_idle()

    def forced(self, token: int) -> None:
        """An operator ended this hold: it is lost here and now. Releasing it tells the cluster that we know.

        A token that nobody knows may be that of a grant which is still on its way:

            0.0 s   the cluster grants it; the answer is slow
            0.5 s   an operator ends it
            1.0 s   a renewal tells of it; acknowledged now, it would never be told again
            1.5 s   the answer comes, and the grant would be believed in for as long as the session is renewed

        So nothing is acknowledged that may be on its way: the next renewal tells it again.
        """
        grant = self._holds.get(token)
        if grant is not None:
            self.lose(grant, LossCode.FORCED, ENDED_BY_OPERATOR)
        elif self.ids.spread > 0:
            return
        if not self.ended.done():
            self._chores.spawn(self._acknowledge(token), "acknowledge")

    async def _acknowledge(self, token: int) -> None:
        body = {"token": token, "session": self.id}
        request = Request("POST", _RELEASE, body)
        # The answer is a refusal, `not_held`: that is what acknowledges it. The session's end stops the asking.
        self._end_if_gone((await self._requester.ask(request, give_up_at=math.inf)).answer)

    def give_back(self, token: int) -> None:
        """A grant that came after this client's own end of the session. Nobody entered it, so it is released, and not left to
        expire with what the session really held."""
        self.run_out()
        body = {"token": token, "session": self.id}
        request = Request("POST", _RELEASE, body)
        self._callbacks.spawn(self._courtesy(request, self.lease.ttl), "give back")

    def withdraw(self, request_id: int) -> None:
        """Take back an acquire whose outcome nobody learns: its waiter, or the hold that it may have got."""
        if not self.ended.done():
            self._chores.spawn(self._withdraw(request_id), "withdraw")

    def _ask_acquire(
        self,
        keys: tuple[str, ...],
        request_id: int,
        wait_until: float,
        context: str | None,
        terms: Terms,
    ) -> Coroutine[Any, Any, Conclusion | None]:
        now = self._clock.now()
        if wait_until <= now:
            request = self._acquire_request(keys, request_id, context, terms, 0)
            return self._requester.ask(request, give_up_at=now + self._patience)
        return self._requester.ask_waiting(
            partial(self._acquire_request, keys, request_id, context, terms),
            wait_until=wait_until,
            patience=self._patience,
            ended=self.ended,
        )

    def _acquire_request(
        self,
        keys: tuple[str, ...],
        request_id: int,
        context: str | None,
        terms: Terms,
        wait_ms: int,
    ) -> Request:
        body: dict[str, Any] = {"session": self.id, "request_id": request_id, "wait_ms": wait_ms}
        if terms is not PLAIN:
            body |= terms.body()
        if len(keys) == 1:
            body["key"] = keys[0]
        else:
            body["keys"] = list(keys)
        if (settled := self.ids.settled) > 0:
            body["settled"] = settled
        if context is not None:
            body["context"] = context
        return Request("POST", _ACQUIRE, body, Lane.ACQUIRE)

    def _insist_in_background(self, request: Request) -> None:
        if not self.ended.done():
            self._chores.spawn(self._insist(request), "release")

    async def _withdraw(self, request_id: int) -> None:
        body = {"session": self.id, "request_id": request_id}
        await self._insist(Request("POST", f"{wire.API_PREFIX}/locks/cancel", body))
        self.ids.settle(request_id)
        self._bury_if_idle()

    async def _insist(self, request: Request) -> None:
        """Until it is done, or there is nothing left to do. The session's end stops it, and makes it unnecessary."""
        while True:
            answer = (await self._requester.ask(request, give_up_at=math.inf)).answer
            if answer.status < 400:
                break
            log.warning("%s: %s", request.path, refusal(answer))
            if answer.body.get("code") in OVER_CODES:
                break
            await self._turn_elsewhere(answer)
        self._end_if_gone(answer)
        self._bury_if_idle()

    # -- the lease

    async def _renew(self) -> None:
        seconds = min(self.lease.ttl * RENEW_ATTEMPT_FRACTION, RENEW_ATTEMPT_SECONDS_MAX)
        path = f"{wire.API_PREFIX}/sessions/renew"
        request = Request("POST", path, {"session": self.id}, lane=Lane.RENEW)
        await self._clock.sleep_until(self.lease.renew_at())
        while True:
            if any(loss_of(each._bound, self._clock.now()) for each in self._holds.values()):
                return  # the loop stood still: whoever watches the bound has not been woken yet
            try:
                conclusion = await self._requester.ask(
                    request,
                    give_up_at=math.inf,
                    attempt_seconds=seconds,
                    on_failure=self._renewal_failed,
                )
            except HoldfastError as error:  # unreachable here: the watcher ends the asking
                log.warning("renewal: %s", error)
                continue
            answer = conclusion.answer
            if answer.status < 400:
                left = max(0.0, self.lease.deadline - self._clock.now())
                self.lease.renewed(answer.sent_at, _remaining(answer))
                self._tell(self._on_renewed, left)
                self._warned = False
                for token in answer.body.get("forced") or ():
                    self.forced(int(token))
                await self._clock.sleep_until(self.lease.renew_at())
                continue
            self._end_if_gone(answer)
            if self.ended.done():
                return
            self._renewal_failed(str(refusal(answer)))
            log.warning("renewal: %s", refusal(answer))
            await self._turn_elsewhere(answer)

    async def _turn_elsewhere(self, answer: Answer) -> None:
        """A refusal that may pass: another node may decide otherwise (until its restart a node goes by its older access file)."""
        self._requester.endpoints.failed(answer.endpoint)
        pause = self.lease.ttl * RENEW_AGAIN_FRACTION
        await self._clock.sleep_until(self._clock.now() + pause)

    async def _watch(self) -> None:
        while True:
            phase = self.lease.phase(self._clock.now())
            if phase is Phase.ENDED:
                self.run_out()
                return
            if phase is Phase.GOOD:
                await self._clock.sleep_until(self.lease.risk_at())
                continue
            if not self._warned:
                self._warned = True
                for grant in list(self._holds.values()):
                    self._warn(grant)
            await self._clock.sleep_until(self.lease.deadline)

    async def _watch_bound(self, grant: Grant, bound: Bound) -> None:
        """The session is this hold's own, so it ends with the bound. Progress only moves the bound later: look again then."""
        warned_for = -math.inf
        while True:
            now = self._clock.now()
            loss = loss_of(bound, now)
            if loss is not None:
                self.end(loss[1], code=loss[0], bury=False)
                return
            risk_at, ends_at = bound.risk_at(self.lease.ttl), bound.ends_at()
            if now < risk_at:
                await self._clock.sleep_until(risk_at)
                continue
            if warned_for != ends_at:
                warned_for = ends_at
                self._warn(grant)
            await self._clock.sleep_until(ends_at)

    # -- the end

    def end(
        self, reason: str, *, code: LossCode = LossCode.SESSION_ENDED, bury: bool = True
    ) -> None:
        """It is over here and now: what it holds is lost. `bury`: tell the cluster, should that still think otherwise."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._chores.cancel()
        for grant in list(self._holds.values()):
            self.lose(grant, code, reason)
        if bury:
            self._callbacks.spawn(self._close(self.lease.ttl), "close")

    def lose(self, grant: Grant, code: LossCode, reason: str) -> None:
        """This one hold is over, and the session may go on: whoever holds it is told, and its body cancelled. Out of the books at
        once: its holder may ask for the key again, and what it releases then by name is the new hold."""
        self._holds.pop(grant.token, None)
        self._forget(grant)
        if grant._lose(code, reason):
            for cancel in list(grant._cancel_bodies):
                cancel()
            self._tell(grant._hooks.on_lost, grant)
        self._bury_if_idle()

    async def close(self, seconds: float) -> bool:
        """End it in order and tell the cluster, within `seconds`. Whether that was acknowledged."""
        self.end("the client was closed", code=LossCode.CLOSED, bury=False)
        return await self._close(seconds)

    def retire(self) -> None:
        """No new acquires; over as soon as nothing is held and nothing is asked."""
        self._retired = True
        self._bury_if_idle()

    def _bury_if_idle(self) -> None:
        if self._retired and not self._holds and self.ids.spread == 0:
            self.end("the session was replaced")

    def _told(self, forced: tuple[int, ...] | None) -> None:
        """The cluster says unasked what a renewal would say later."""
        if forced is None:
            self.end("the cluster ended the session (pushed)", bury=False)
        for token in forced or ():
            if token in self._holds:  # else a renewal or a call about the hold was faster
                self.forced(token)

    def _tell_no_more(self, _: asyncio.Future[str]) -> None:
        if isinstance(self._requester.transport, Telling):
            self._requester.transport.tell_no_more(self.id)

    def _end_if_gone(self, answer: Answer) -> None:
        code = answer.body.get("code")
        if code in SESSION_GONE_CODES:
            self.end(f"the cluster ended the session ({code})", bury=False)

    async def _close(self, seconds: float) -> bool:
        path = f"{wire.API_PREFIX}/sessions/close"
        request = Request("POST", path, {"session": self.id}, lane=Lane.RENEW)
        return await self._courtesy(request, seconds)

    async def _courtesy(self, request: Request, seconds: float) -> bool:
        """What only makes others wait less. The end of the session does it anyway."""
        give_up_at = self._clock.now() + seconds
        try:
            conclusion = await self._requester.ask(request, give_up_at=give_up_at)
        except (Unreachable, UnknownOutcome) as error:
            log.warning("the session is left to end by itself: %s", error)
            return False
        return conclusion.answer.status < 400

    def run_out(self) -> None:
        """The lease is over by this client's own clock: what it holds is lost."""
        failed = self.lease.renewals_failed
        told = f" ({failed} attempts failed, last: {self._last_failure})" if failed else ""
        self.end(LEASE_RAN_OUT + told, code=LossCode.NOT_RENEWED, bury=not self._holds)

    def _renewal_failed(self, told: str) -> None:
        self.lease.renewals_failed += 1
        self._last_failure = told

    def _warn(self, grant: Grant) -> None:
        self._tell(grant._hooks.on_at_risk, grant, grant.remaining())

    def _tell(self, callbacks: tuple[Callable[..., object], ...], *arguments: object) -> None:
        for callback in callbacks:
            self._callbacks.spawn(_call(callback, *arguments), "callback")


async def _call(callback: Callable[..., object], *arguments: object) -> None:
    outcome = callback(*arguments)
    if inspect.isawaitable(outcome):
        await outcome


def _remaining(answer: Answer) -> float:
    return int(answer.body["remaining_ms"]) / MS_PER_SECOND
