"""The asynchronous client: one session for however many locks, and the calls of a user.

Rules:
* Nothing is sent before the first call; the session is opened by the first acquire, so that looking costs the cluster nothing.
* A grant is handed out only while its session is surely alive; one that comes too late is given back, never entered.
* Between the cluster's grant and the moment the caller has it there is no point at which a cancellation could strand it: before
  that moment the session withdraws the request, after it the caller owns the grant.
* A hold belongs to whoever acquired it (a task here, a thread in `sync.py`); nobody else can release it by name.
It knows how holds are kept and ended through `session.py`, and nothing of threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from holdfast import wire
from holdfast.background import Chores
from holdfast.clock import BootClock, Clock
from holdfast.errors import (
    ClientClosed,
    HoldfastError,
    NotAcquired,
    SessionLost,
    UnknownOutcome,
    Unreachable,
)
from holdfast.grant import Grant, Hooks
from holdfast.lock import Lock
from holdfast.requests import ATTEMPT_SECONDS, SESSION_GONE_CODES, Requester, refusal
from holdfast.session import LEASE_RAN_OUT, Session
from holdfast.transport import (
    Answer,
    Encoding,
    Endpoints,
    HttpTransport,
    NoAnswer,
    NotSent,
    Request,
    Transport,
    parse_endpoints,
)
from holdfast.views import (
    MS_PER_SECOND,
    ClusterInfo,
    Holder,
    LockInfo,
    LockPage,
    cluster_of,
    lock_of,
    page_of,
    previous_by_key,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from types import TracebackType

log = logging.getLogger("holdfast")

TTL_SECONDS: Final = 10.0
"""Long enough for an election and a pause of the garbage collector, short enough to wait for after a crash."""
TIMEOUT_SECONDS: Final = 15.0
"""Rides out an election, a node that hangs, and a restart of the whole cluster on one machine."""
CLOSE_SECONDS: Final = 3.0
"""Closing is a courtesy: without it the session ends by its TTL."""
REPLACEMENTS_MAX: Final = 3
"""Sessions that may end under one acquire whose wait is over, before the caller hears of it."""
REPLACEMENT_PAUSE_SECONDS: Final = 0.1
"""Before the next session, doubled each time up to a second: an acquire never spins."""
SESSION_ID_BYTES: Final = 16
"""128 random bits: whoever knows the id may act as the session."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `connect` was told."""

    endpoints: tuple[str, ...]
    ttl: float = TTL_SECONDS
    owner: str | None = None
    timeout: float = TIMEOUT_SECONDS
    encoding: Encoding = "json"
    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    hooks: Hooks = field(default_factory=Hooks)


@dataclass(frozen=True, slots=True)
class Ports:
    """Time, randomness, identity and network, for whoever wants to replace them (tests, the simulator)."""

    clock: Clock = field(default_factory=BootClock)
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)
    new_session_id: Callable[[], str] = field(
        default_factory=lambda: lambda: secrets.token_hex(SESSION_ID_BYTES)
    )
    transport: Transport | None = None


def connect(
    endpoints: str | Sequence[str],
    *,
    ttl: float = TTL_SECONDS,
    owner: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    encoding: Encoding = "json",
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    on_at_risk: Callable[[Grant], object] | None = None,
    on_lost: Callable[[Grant], object] | None = None,
) -> AsyncClient:
    """A client for `async with`.

    `endpoints`: every node, `"http://a:7601,http://b:7602"` or a sequence. `ttl`: seconds after which the cluster gives away
    what a dead client held. `owner`: what others see of you. `timeout`: seconds for which one call goes on asking without a
    definite answer (on top of `wait`). `token`: sent as a bearer credential. `on_at_risk` and `on_lost` are called with the
    grant, on the event loop, for every lock. Raises `ValueError` for an unusable argument; does no I/O.
    """
    return AsyncClient(
        settings_of(
            endpoints,
            ttl=ttl,
            owner=owner,
            timeout=timeout,
            encoding=encoding,
            token=token,
            tls=tls,
            hooks=hooks_of(on_at_risk, on_lost),
        )
    )


def settings_of(
    endpoints: str | Sequence[str],
    *,
    ttl: float,
    owner: str | None,
    timeout: float,
    encoding: Encoding,
    token: str | None,
    tls: ssl.SSLContext | None,
    hooks: Hooks,
) -> Settings:
    """Checked settings. Raises `ValueError`."""
    check_ttl(ttl)
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout is a positive number of seconds, not {timeout!r}")
    if encoding not in ("json", "msgpack"):
        raise ValueError(f"encoding is 'json' or 'msgpack', not {encoding!r}")
    return Settings(
        endpoints=parse_endpoints(endpoints),
        ttl=ttl,
        owner=owner,
        timeout=timeout,
        encoding=encoding,
        token=token,
        tls=tls,
        hooks=hooks,
    )


def hooks_of(
    on_at_risk: Callable[[Grant], object] | None, on_lost: Callable[[Grant], object] | None
) -> Hooks:
    """The callbacks of one level (a client, or a lock)."""
    return Hooks(
        on_at_risk=() if on_at_risk is None else (on_at_risk,),
        on_lost=() if on_lost is None else (on_lost,),
    )


def check_ttl(ttl: float) -> None:
    """Raises `ValueError` for a TTL that no cluster takes."""
    if not (0 < ttl * MS_PER_SECOND <= wire.TTL_MS_MAX):
        raise ValueError(f"ttl is a number of seconds up to {wire.TTL_MS_MAX // 1000}, not {ttl!r}")


def keys_of(keys: str | Sequence[str]) -> tuple[str, ...]:
    """One key or several. Raises `ValueError` for none; everything else is for the cluster to judge."""
    found = (keys,) if isinstance(keys, str) else tuple(keys)
    if not found:
        raise ValueError("no key was given")
    return found


def check_wait(wait: float | None) -> float:
    """Seconds to wait, infinity for None. Raises `ValueError`."""
    if wait is None:
        return math.inf
    if not wait >= 0:
        raise ValueError(f"wait is a number of seconds, 0 or more, or None; not {wait!r}")
    return wait


class AsyncClient:
    """The client of one event loop. Made by `connect`; safe to use from any number of its tasks."""

    def __init__(self, settings: Settings, ports: Ports | None = None) -> None:
        ports = ports or Ports()
        self._settings = settings
        self._ports = ports
        self._clock = ports.clock
        self._transport = ports.transport or HttpTransport(
            clock=ports.clock, encoding=settings.encoding, token=settings.token, tls=settings.tls
        )
        self._requester = Requester(
            self._transport, Endpoints(settings.endpoints, ports.draw), ports.clock, ports.draw
        )
        self._chores = Chores()
        self._main: Session | None = None
        self._opening: asyncio.Task[Session] | None = None
        self._sessions: set[Session] = set()
        self._by_key: dict[str, tuple[Grant, Session]] = {}
        self._plain: set[int] = set()  # tokens that were got through `acquire_lock`
        self._is_closed = False

    # -- locks

    def lock(
        self,
        keys: str | Sequence[str],
        *,
        wait: float | None = 0.0,
        ttl: float | None = None,
        context: str | None = None,
        on_at_risk: Callable[[Grant], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> Lock:
        """A lock for `async with ... as grant`; nothing happens before that.

        `keys`: one key, or several that are granted all or none under one token. `wait`: seconds to stand in the queue, 0 not
        at all, None as long as it takes. `ttl`: gives this lock a session of its own with that TTL. `context`: a short note for
        whoever looks into the log of the cluster. Entering raises `NotAcquired`, `Unreachable`, `UnknownOutcome`, ...; leaving
        raises `LockLost` if the lock was lost, in which case the body was cancelled.
        """
        if ttl is not None:
            check_ttl(ttl)
        return Lock(
            self,
            keys_of(keys),
            wait=check_wait(wait),
            ttl=ttl,
            context=context,
            hooks=hooks_of(on_at_risk, on_lost),
        )

    async def acquire_lock(self, key: str, wait: float | None = 0.0) -> bool:
        """Whether the calling task has the lock now. False: somebody has it (also: this task itself), or `wait` was in vain.

        The lock is renewed until `release_lock`, by the same task. Raises `UnknownOutcome` if the outcome cannot be learned (it
        is withdrawn in the background), `Unreachable` and the other refusals. To bound the time use `wait`, not a wrapper that
        runs this call in another task.
        """
        return await self._acquire_plain(key, wait, asyncio.current_task())

    async def release_lock(self, key: str) -> bool:
        """Give back what the calling task got through `acquire_lock`. False, never an exception, if that task does not hold it
        (any more), or if the release is not acknowledged yet (it is insisted on in the background)."""
        return await self._release_plain(key, asyncio.current_task())

    def grant_of(self, key: str) -> Grant | None:
        """The calling task's grant from `acquire_lock`, for its fence; None if it does not hold the key."""
        return self._plain_grant(key, asyncio.current_task())

    # -- looking

    async def status(self) -> ClusterInfo:
        """The cluster, as the first node that answers sees it."""
        return cluster_of(await self._read(Request("GET", f"{wire.API_PREFIX}/cluster")))

    async def statuses(self) -> dict[str, ClusterInfo | HoldfastError]:
        """The cluster as each endpoint sees it, or why that one could not be asked."""
        self._check_open()
        request = Request("GET", f"{wire.API_PREFIX}/cluster")

        seconds = min(self._settings.timeout, ATTEMPT_SECONDS)

        async def ask(endpoint: str) -> ClusterInfo | HoldfastError:
            try:
                answer = await self._transport.attempt(endpoint, request, seconds=seconds)
                return cluster_of(answer.body) if answer.status < 400 else refusal(answer)
            except (NotSent, NoAnswer) as error:
                return Unreachable(str(error))

        endpoints = self._settings.endpoints
        return dict(zip(endpoints, await asyncio.gather(*map(ask, endpoints)), strict=True))

    async def read_lock(self, key: str) -> LockInfo:
        """Who holds `key` and who waits for it, linearizably."""
        path = f"{wire.API_PREFIX}/locks/read"
        return lock_of(await self._read(Request("POST", path, {"key": key})))

    async def list_locks(
        self, prefix: str = "", *, limit: int = 100, after: str | None = None
    ) -> LockPage:
        """Locks that are held or waited for, by key, from `after` on."""
        body: dict[str, Any] = {"prefix": prefix, "limit": limit}
        if after is not None:
            body["after"] = after
        path = f"{wire.API_PREFIX}/locks/read"  # not the query: keys stay out of access logs
        return page_of(await self._read(Request("POST", path, body)))

    async def _read(self, request: Request) -> Any:
        self._check_open()
        give_up_at = self._clock.now() + self._settings.timeout
        try:
            answer = (await self._requester.ask(request, give_up_at=give_up_at)).answer
        except UnknownOutcome as error:  # a read has no effect that could be unknown
            raise Unreachable(str(error)) from error
        if answer.status >= 400:
            raise refusal(answer)
        return answer.body

    # -- life

    async def __aenter__(self) -> AsyncClient:
        self._check_open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the session, which releases everything; locks that are still held are lost. Takes 3 s at most each for the
        cluster and for callbacks. Closing twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            open_sessions = [each for each in self._sessions if not each.ended.done()]
            await asyncio.gather(*(each.close(CLOSE_SECONDS) for each in open_sessions))
            try:
                async with self._clock.timeout(CLOSE_SECONDS):
                    await self._chores.finish()
            except TimeoutError:
                log.warning("callbacks or closings were still running when the client was closed")
        finally:
            self._chores.cancel()
            await self._transport.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed("the client was closed")

    # -- acquiring, for whoever holds: `holder` is a task or stands for a thread

    async def _acquire(
        self,
        keys: tuple[str, ...],
        *,
        wait: float,
        ttl: float | None,
        context: str | None,
        hooks: Hooks,
        holder: object,
    ) -> Grant:
        """A grant that is good at this moment. There is no await between its making and the return."""
        self._check_open()
        self._refuse_reentry(keys, holder)
        wait_until = self._clock.now() + wait
        replaced = 0
        while True:
            session = await self._session(ttl)
            grant = None
            try:
                answer = await session.acquire(keys, wait_until=wait_until, context=context)
                if answer is not None and answer.status < 400:
                    grant = self._grant_or_end(session, answer, hooks, holder)
                if grant is not None:
                    return grant
            finally:
                if ttl is not None:
                    session.retire()  # a session of its own ends with its only hold
            now = self._clock.now()
            if answer is not None and _is_final(answer):
                if not (_waited_in_vain(answer) and now < wait_until):
                    raise refusal(answer, keys)
                self._check_open()
            else:
                self._check_open()
                replaced += 1
                if replaced > REPLACEMENTS_MAX and now >= wait_until:
                    raise SessionLost("the session ended while the lock was asked for")
                pause = min(REPLACEMENT_PAUSE_SECONDS * 2 ** min(replaced - 1, 8), 1.0)
                await self._clock.sleep_until(now + (pause if replaced > 1 else 0.0))

    def _grant_or_end(
        self, session: Session, answer: Answer, hooks: Hooks, holder: object
    ) -> Grant | None:
        """A grant that cannot be read must not stay behind unseen: its session ends."""
        try:
            return self._grant(session, answer, hooks, holder)
        except (KeyError, TypeError, ValueError) as error:
            session.end("the coordinator sent a grant that cannot be read")
            raise UnknownOutcome(f"the grant cannot be read: {error!r}") from error

    def _grant(
        self, session: Session, answer: Answer, hooks: Hooks, holder: object
    ) -> Grant | None:
        """What the answer grants, or None: it came too late, and was given back with its session."""
        body = answer.body
        session.lease.seen(answer.sent_at, int(body["remaining_ms"]) / MS_PER_SECOND)
        if session.ended.done():
            return None
        if session.lease.remaining(self._clock.now()) <= 0.0:
            session.end(LEASE_RAN_OUT)
            return None
        keys = tuple(str(each) for each in body["keys"])
        own = self._settings.hooks
        grant = Grant(
            token=int(body["token"]),
            fence=int(body["fence"]),
            keys=keys,
            mode=str(body.get("mode", "exclusive")),
            previous_by_key=previous_by_key(keys, body.get("previous")),
            previous_horizon=int(body.get("previous_horizon") or 0),
            lease=session.lease,
            clock=self._clock,
            holder=holder,
            hooks=Hooks(hooks.on_at_risk + own.on_at_risk, hooks.on_lost + own.on_lost),
        )
        session.hold(grant)
        for key in keys:
            self._by_key[key] = (grant, session)
        return grant

    async def _release(self, grant: Grant) -> bool:
        session = self._forget(grant)
        return session is not None and await session.release(grant)

    async def _acquire_plain(self, key: str, wait: float | None, holder: object) -> bool:
        try:
            grant = await self._acquire(
                keys_of(key),
                wait=check_wait(wait),
                ttl=None,
                context=None,
                hooks=Hooks(),
                holder=holder,
            )
        except NotAcquired:
            return False
        self._plain.add(grant.token)
        return True

    async def _release_plain(self, key: str, holder: object) -> bool:
        grant = self._plain_grant(key, holder)
        return grant is not None and await self._release(grant)

    def _plain_grant(self, key: str, holder: object) -> Grant | None:
        grant, _ = self._by_key.get(key, (None, None))
        if grant is None or grant._holder is not holder or grant.token not in self._plain:
            return None
        return grant

    def _forget(self, grant: Grant) -> Session | None:
        """Out of the books; the session it belonged to, None if it was not in them."""
        session = None
        self._plain.discard(grant.token)
        for key in grant.keys:
            found = self._by_key.get(key)
            if found is not None and found[0] is grant:
                session = found[1]
                del self._by_key[key]
        return session

    def _refuse_reentry(self, keys: tuple[str, ...], holder: object) -> None:
        """The same holder would wait for itself: refused as held, at once."""
        for key in keys:
            found = self._by_key.get(key)
            if found is None or found[0]._holder is not holder or found[0].remaining() <= 0.0:
                continue
            grant = found[0]
            itself = Holder(grant.token, None, self._settings.owner, grant.mode, grant.remaining())
            raise NotAcquired(
                f"{key!r} is held by the caller itself", keys=keys, code="held", holders=(itself,)
            )

    # -- sessions

    async def _session(self, ttl: float | None) -> Session:
        """The session for a new acquire: the shared one, made anew if it is over; or one of its own."""
        if ttl is not None:
            return await self._shielded(self._chores.spawn(self._open(ttl), "open", awaited=True))
        main = self._main
        if main is not None and main.is_usable:
            if not main.is_crowded:
                return main
            main.retire()
        if self._opening is None:
            self._opening = self._chores.spawn(self._open_main(), "open", awaited=True)
        return await self._shielded(self._opening)

    async def _shielded(self, opening: asyncio.Task[Session]) -> Session:
        """A cancelled caller leaves the opening to those who also wait for it."""
        await asyncio.wait({opening})
        if opening.cancelled():
            raise ClientClosed("the client was closed")
        return opening.result()

    async def _open_main(self) -> Session:
        try:
            self._main = await self._open(self._settings.ttl)
            return self._main
        finally:
            self._opening = None

    async def _open(self, ttl: float) -> Session:
        session = await Session.open(
            self._requester,
            session_id=self._ports.new_session_id(),
            ttl=ttl,
            owner=self._settings.owner,
            patience=self._settings.timeout,
            callbacks=self._chores,
        )
        if self._is_closed:
            await session.close(CLOSE_SECONDS)
            raise ClientClosed("the client was closed")
        self._sessions.add(session)
        session.ended.add_done_callback(lambda _: self._session_ended(session))
        return session

    def _session_ended(self, session: Session) -> None:
        self._sessions.discard(session)
        if self._main is session:
            self._main = None
        for grant in [each for each, owner in self._by_key.values() if owner is session]:
            self._forget(grant)


def _is_final(answer: Answer) -> bool:
    """Whether the answer decides the acquire; otherwise its session (or a hold that ended at once) is over, and it is asked
    again through a new one."""
    if answer.status < 400:
        return False
    code = answer.body.get("code")
    return code not in SESSION_GONE_CODES and code != wire.Code.NOT_HELD


def _waited_in_vain(answer: Answer) -> bool:
    return answer.body.get("code") == wire.Code.WAIT_TIMEOUT
