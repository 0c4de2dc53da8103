"""The asynchronous client: one session for however many locks, and the calls of a user.

Rules:
* Nothing is sent before the first call; the session is opened by the first acquire, so that looking costs the cluster nothing.
* A grant is handed out only while its session is surely alive; one that comes too late is given back, never entered.
* Between the cluster's grant and the moment the caller has it there is no point at which a cancellation could strand it: before
  that moment the session withdraws the request, after it the caller owns the grant.
* A hold belongs to whoever acquired it (a task here, a thread in `sync.py`); nobody else can release it by name.
* A lock belongs to the task that CALLED `acquire_lock`, also if the call is awaited in another one (`asyncio.wait_for` does that).
* A client that was inherited through a fork begins anew: another session, no connection and no hold of the parent's.
It knows how holds are kept and ended through `sessions.py` and `session.py`, and nothing of threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack, cast, overload

from holdfast import forks, wire
from holdfast.clock import BootClock, Clock
from holdfast.closed import checkpoints_by_key, fences_of
from holdfast.contexts import Contexts, ThreadHolder
from holdfast.decorator import OnHeld, P, R, locked_async, wait_of
from holdfast.errors import (
    ClientClosed,
    HoldfastError,
    NotAcquired,
    SessionLost,
    UnknownOutcome,
    Unreachable,
)
from holdfast.grant import Grant, Hooks
from holdfast.held import AsyncGrant, Work, async_grant
from holdfast.holds import Holds
from holdfast.lease import Bound
from holdfast.lock import Lock
from holdfast.options import (
    HoldKeywords,
    LockKeywords,
    LockOptions,
    check_ttl,
    hooks_of,
    keys_of,
    lock_options,
)
from holdfast.reports import NodeReport, report_of
from holdfast.requests import ATTEMPT_SECONDS, SESSION_GONE_CODES, Requester, refusal
from holdfast.services import Services
from holdfast.sessions import Sessions
from holdfast.stores import capabilities
from holdfast.stores.address import StoreAddress, open_store, parse_store
from holdfast.stream_transport import StreamTransport
from holdfast.transport import (
    Answer,
    Encoding,
    Endpoints,
    HttpTransport,
    LateTransport,
    NoAnswer,
    NotSent,
    Request,
    Steering,
    Transport,
    parse_endpoints,
)
from holdfast.views import (
    MS_PER_SECOND,
    ClusterInfo,
    LockInfo,
    LockPage,
    cluster_of,
    lock_of,
    page_of,
    previous_by_key,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from types import TracebackType

    from holdfast.held import GrantMaker, SharedGrant
    from holdfast.session import Session
    from holdfast.terms import Mode, OnUnclean

log: logging.Logger = logging.getLogger("holdfast")

Seen = TypeVar("Seen")

TTL_SECONDS: Final = 10.0
"""Long enough for an election and a pause of the garbage collector, short enough to wait for after a crash."""
TIMEOUT_SECONDS: Final = 15.0
"""Rides out an election, a node that hangs, and a restart of the whole cluster on one machine."""
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
    stream: bool = True
    """Whether the calls to a cluster go over one connection to a node, where that is possible."""
    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    hooks: Hooks = field(default_factory=Hooks)
    on_renewed: Callable[[float], object] | None = None
    store: StoreAddress | None = None
    """Where the locks are, if not in a cluster."""


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
    stream: bool = True,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    require: str | Sequence[str] = (),
    on_at_risk: Callable[[Grant, float], object] | None = None,
    on_lost: Callable[[Grant], object] | None = None,
    on_renewed: Callable[[float], object] | None = None,
) -> AsyncClient:
    """A client for `async with`.

    `endpoints`: every node, `"http://a:7601,http://b:7602"` or a sequence; or the address of another store: `"memory://"`,
    `"sqlite:///locks.db"`, `"postgresql+psycopg://host/name"`, `"redis://host:6379/0"`. `require`: what the store must promise
    (`"fencing=global"`, see `holdfast capabilities`), else `Unsuitable` is raised. `ttl`: seconds after which what a dead client
    held is given away. `owner`: what others see of you. `timeout`: seconds for which one call goes on asking without a
    definite answer (on top of `wait`). `stream`: False makes every call to a cluster a request of its own. `token`: sent as a
    bearer token; `tls`: how to speak to `https://` endpoints (`holdfast.tls_context`; without it, as this machine does).
    `on_at_risk(grant, seconds_left)` is called when renewal has been failing for so long that the lock will be lost in
    `seconds_left`; `on_lost(grant)` when it is lost; both on the event loop, for every lock. `on_renewed(seconds_left)` is called
    at each renewal of a session, with what was left of its lease: for metrics (`holdfast.contrib.prometheus`). Raises
    `ValueError` for an unusable argument; does no I/O.
    """
    return AsyncClient(
        settings_of(
            endpoints,
            ttl=ttl,
            owner=owner,
            timeout=timeout,
            encoding=encoding,
            stream=stream,
            token=token,
            tls=tls,
            require=require,
            hooks=hooks_of(on_at_risk, on_lost),
            on_renewed=on_renewed,
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
    stream: bool = True,
    require: str | Sequence[str] = (),
    on_renewed: Callable[[float], object] | None = None,
) -> Settings:
    """Checked settings. Raises `ValueError`, and `Unsuitable` for a store that does not give what `require` says."""
    check_ttl(ttl)
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout is a positive number of seconds, not {timeout!r}")
    if encoding not in ("json", "msgpack"):
        raise ValueError(f"encoding is 'json' or 'msgpack', not {encoding!r}")
    store = parse_store(endpoints)
    if store is not None and (token is not None or tls is not None):
        raise ValueError(
            "token and tls are for the nodes of a cluster; a store has its credentials in its address"
        )
    capabilities.check(capabilities.CLUSTER if store is None else store.capabilities, require)
    return Settings(
        endpoints=parse_endpoints(endpoints) if store is None else (store.shown,),
        ttl=ttl,
        owner=owner,
        timeout=timeout,
        encoding=encoding,
        stream=stream,
        token=token,
        tls=tls,
        hooks=hooks,
        on_renewed=on_renewed,
        store=store,
    )


class AsyncClient(Services):
    """The client of one event loop. Made by `connect`; safe to use from any number of its tasks."""

    def __init__(self, settings: Settings, ports: Ports | None = None) -> None:
        self._settings = settings
        self._ports = ports or Ports()
        self._clock = self._ports.clock
        self._is_closed = False
        self._make_grant: GrantMaker = async_grant
        self._outside = ThreadHolder()  # stands for whoever calls from outside of any task
        self._start(self._ports.transport or _transport(settings, self._ports))
        forks.on_fork(self)

    def _start(self, transport: Transport) -> None:
        """Everything that belongs to one process."""
        settings, ports = self._settings, self._ports
        self._transport = transport
        endpoints = Endpoints(settings.endpoints, ports.draw)
        self._requester = Requester(self._transport, endpoints, ports.clock, ports.draw)
        if isinstance(transport, Steering):
            transport.steer(endpoints)
        self._holds = Holds()
        self._contexts = Contexts()
        self._sessions = Sessions(
            self._requester,
            self._holds,
            ttl=settings.ttl,
            owner=settings.owner,
            patience=settings.timeout,
            new_session_id=ports.new_session_id,
            on_renewed=settings.on_renewed,
        )
        # Should the client be dropped without `aclose`, its locks must not be renewed for ever.
        self._finalizer = weakref.finalize(self, self._sessions.abandon)
        self._finalizer.atexit = False

    def _forked(self) -> None:
        """In the child: begin anew, and leave what is the parent's as it is."""
        if self._is_closed:
            return
        self._finalizer.detach()
        forks.keep_for_ever(self._sessions, self._transport)
        # Opened when it is used: stores have things of their own to forget in a child, perhaps after this.
        settings, ports = self._settings, self._ports
        self._start(ports.transport or LateTransport(lambda: _transport(settings, ports)))

    # -- locks

    @overload
    def lock(
        self,
        keys: str | Sequence[str],
        *,
        mode: Literal["exclusive"] = "exclusive",
        **keywords: Unpack[HoldKeywords],
    ) -> Lock[AsyncGrant]: ...

    @overload
    def lock(
        self,
        keys: str | Sequence[str],
        *,
        mode: Literal["shared"],
        limit: int | None = None,
        **keywords: Unpack[HoldKeywords],
    ) -> Lock[SharedGrant]: ...

    def lock(
        self,
        keys: str | Sequence[str],
        *,
        wait: float | None = 0.0,
        ttl: float | None = None,
        max_hold: float | None = None,
        progress_within: float | None = None,
        context: str | None = None,
        reentrant: bool = False,
        mode: Mode = "exclusive",
        limit: int | None = None,
        on_unclean: OnUnclean = "grant",
        delay: float | None = None,
        require_clean: bool = False,
        on_at_risk: Callable[[Grant, float], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> Lock[Any]:
        """A lock for `async with ... as grant`; nothing happens before that.

        `keys`: one key, or several that are granted all or none under one token. `wait`: seconds to stand in the queue, 0 not
        at all, None as long as it takes. `ttl`: gives this lock a session of its own with that TTL. `max_hold`: seconds after
        which the lock is lost however well it could be renewed; `progress_within`: the same, counted anew from each
        `grant.progress()`; both give it a session of its own. `context`: a short note for whoever looks into the
        cluster; the name of the task stands behind it. `reentrant`: if this task holds the keys already, enter once more under the
        same grant. `mode`, `limit`: see `shared` and `semaphore`. `on_unclean`: what becomes of the keys should this hold expire
        or be forced: `grant` them to the next, `delay` that for `delay` seconds, or `refuse` everybody until somebody resolves it.
        `require_clean`: refuse me if the last hold ended so. Entering raises `NotAcquired` (`AlreadyDone`, `InDoubt`, `KeyClosed`,
        `Deadlock`), `Unreachable`, `UnknownOutcome`, ...; leaving raises `LockLost` if the lock was lost, in which case the
        body was cancelled. Raises `ValueError` for an unusable argument.
        """
        options = lock_options(
            wait=wait,
            ttl=ttl,
            max_hold=max_hold,
            progress_within=progress_within,
            context=context,
            reentrant=reentrant,
            mode=mode,
            limit=limit,
            on_unclean=on_unclean,
            delay=delay,
            require_clean=require_clean,
            hooks=hooks_of(on_at_risk, on_lost),
        )
        return Lock(self, keys_of(keys), options)

    def _lock(self, keys: str | Sequence[str], keywords: LockKeywords) -> Lock[Any]:
        """The same where the keywords are not known in advance."""
        lock = cast("Callable[..., Lock[Any]]", self.lock)
        return lock(keys, **keywords)

    @overload
    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: Literal["raise", "wait"] = "raise",
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]: ...

    @overload
    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: Literal["skip"],
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R | None]]]: ...

    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: OnHeld = "raise",
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, Any]]]:
        """A decorator: `@hf.locked("customer:{customer_id}:collect")` runs an `async def` under a lock for each call.

        `templates`: one or several keys with `{argument}` or `{argument.attribute}` in them, checked here and rendered by `str()`.
        `on_held`, when it is not acquired: `raise` NotAcquired, `skip` the body and return None, or `wait` as long as it takes. The
        other keywords are those of `lock`. `holdfast.current_grant()` is the grant, inside. Raises `ValueError` and `TypeError` at
        decoration for a template or a function that cannot work, and `ValueError` at a call whose values make no key.
        """
        keywords["wait"] = wait_of(on_held, keywords.get("wait", 0.0))
        self._lock("-", keywords)  # raises now for an option that cannot be

        def decorate(
            function: Callable[P, Awaitable[R]],
        ) -> Callable[P, Coroutine[Any, Any, Any]]:
            return locked_async(
                function, templates, lambda keys: self._lock(keys, keywords), on_held
            )

        return decorate

    def acquire_lock(
        self, key: str, wait: float | None = 0.0, *, max_hold: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Whether the calling task has the lock now. False: somebody has it (also: this task itself), or `wait` was in vain.

        The lock is renewed until `release_lock` by the same task, and no longer than `max_hold` seconds if that is given. Raises
        `UnknownOutcome` if the outcome cannot be learned (it is withdrawn in the background), `Unreachable` and the other
        refusals.
        """
        return self._acquire_plain(key, wait, max_hold, self._caller())

    def release_lock(self, key: str) -> Coroutine[Any, Any, bool]:
        """Give back what the calling task got through `acquire_lock`. False, never an exception, if that task does not hold it
        (any more), or if the release is not acknowledged yet (it is insisted on in the background)."""
        return self._release_plain(key, self._caller())

    def grant_of(self, key: str) -> AsyncGrant | None:
        """The calling task's grant from `acquire_lock`, for its fence; None if it does not hold the key."""
        return cast("AsyncGrant | None", self._holds.plain(key, self._caller()))

    # -- looking

    async def status(self) -> ClusterInfo:
        """The cluster, as the first node that answers sees it."""
        return cluster_of(await self._read(Request("GET", f"{wire.API_PREFIX}/cluster")))

    async def statuses(self) -> dict[str, ClusterInfo | HoldfastError]:
        """The cluster as each endpoint sees it, or why that one could not be asked."""
        self._check_open()
        return await self._ask_each("/cluster", lambda answer: cluster_of(answer.body))

    async def reports(self) -> dict[str, NodeReport | HoldfastError]:
        """What the node at each endpoint tells of itself, or why it could not be asked. For whoever looks after the cluster."""
        self._check_open()

        def report(answer: Answer) -> NodeReport:
            return report_of(answer.body, answer.sent_at, self._clock.now())

        return await self._ask_each("/cluster/node", report)

    async def _ask_each(
        self, path: str, understand: Callable[[Answer], Seen]
    ) -> dict[str, Seen | HoldfastError]:
        """All endpoints at once; none in the place of another."""
        request = Request("GET", wire.API_PREFIX + path)
        seconds = min(self._settings.timeout, ATTEMPT_SECONDS)

        async def ask(endpoint: str) -> Seen | HoldfastError:
            try:
                answer = await self._transport.attempt(endpoint, request, seconds=seconds)
                return understand(answer) if answer.status < 400 else refusal(answer)
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
        cluster and for callbacks. Closing twice is harmless; being cancelled does not stop the closing."""
        self._is_closed = True
        self._finalizer.detach()
        await self._sessions.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed("the client was closed")

    # -- acquiring, for whoever holds: `holder` is a task or stands for a thread

    async def _acquire(self, keys: tuple[str, ...], options: LockOptions, holder: object) -> Grant:
        """A grant that is good at this moment. There is no await between its making and the return."""
        self._check_open()
        terms, books = options.terms, self._holds
        if options.reentrant and (held := books.re_entered(keys, terms, holder)) is not None:
            return held
        is_holding = books.is_holding(holder)
        if is_holding:
            books.refuse_reentry(keys, terms, holder, self._settings.owner)
        context = self._contexts.of(holder, options.context, is_holding=is_holding)
        own_ttl = options.session_ttl(self._settings.ttl)
        wait_until = self._clock.now() + options.wait
        replaced = 0
        while True:
            session = await self._sessions.session(own_ttl)
            grant = None
            try:
                answer = await session.acquire(
                    keys, wait_until=wait_until, context=context, terms=terms
                )
                if answer is not None and answer.status < 400:
                    grant = self._grant_or_end(session, answer, options, holder)
                if grant is not None:
                    return grant
            finally:
                if own_ttl is not None:
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
        self, session: Session, answer: Answer, options: LockOptions, holder: object
    ) -> Grant | None:
        """A grant that cannot be read must not stay behind unseen: its session ends."""
        try:
            return self._grant(session, answer, options, holder)
        except (KeyError, TypeError, ValueError) as error:
            session.end("the coordinator sent a grant that cannot be read")
            raise UnknownOutcome(f"the grant cannot be read: {error!r}") from error

    def _grant(
        self, session: Session, answer: Answer, options: LockOptions, holder: object
    ) -> Grant | None:
        """What the answer grants, or None: it came too late, and is given back."""
        body = answer.body
        session.lease.seen(answer.sent_at, int(body["remaining_ms"]) / MS_PER_SECOND)
        now = self._clock.now()
        if session.ended.done() or session.lease.remaining(now) <= 0.0:
            session.give_back(int(body["token"]))
            return None
        keys = tuple([str(each) for each in body["keys"]])
        fields: dict[str, Any] = {
            "token": int(body["token"]),
            "fences": fences_of(keys, body["fence"]),
            "keys": keys,
            "mode": str(body.get("mode", "exclusive")),
            "previous_by_key": previous_by_key(keys, body.get("previous")),
            "previous_horizon": int(body.get("previous_horizon") or 0),
            "checkpoint_by_key": checkpoints_by_key(keys, body.get("checkpoint")),
            "limit": body.get("limit"),
            "lease": session.lease,
            "bound": _bound(options, now),
            "clock": self._clock,
            "holder": holder,
            "hooks": options.hooks.and_those(self._settings.hooks),
        }
        grant = self._make_grant(Work(session, self._holds), fields)
        session.hold(grant)
        self._holds.add(grant, session)
        return grant

    async def _release(self, grant: Grant) -> bool:
        """Whether this block's hold is over, or is still needed by an outer one."""
        grant._entries -= 1
        if grant._entries > 0 and not grant.is_lost:
            return True
        session = self._holds.forget(grant)
        return session is not None and await session.release(grant)

    async def _acquire_plain(
        self, key: str, wait: float | None, max_hold: float | None, holder: object
    ) -> bool:
        options = lock_options(wait=wait, max_hold=max_hold)
        try:
            grant = await self._acquire(keys_of(key), options, holder)
        except NotAcquired:
            return False
        self._holds.mark_plain(grant)
        return True

    async def _release_plain(self, key: str, holder: object) -> bool:
        grant = self._holds.plain(key, holder)
        return grant is not None and await self._release(grant)

    def _caller(self) -> object:
        """The holder that a plain call is for: the task that makes it, or whoever is outside of all tasks
        (`loop.run_until_complete(hf.acquire_lock("k"))`)."""
        try:
            return asyncio.current_task() or self._outside
        except RuntimeError:  # no event loop runs here
            return self._outside

    def __repr__(self) -> str:
        # Endpoints may carry credentials, and keys personal data: neither is shown.
        state = "closed" if self._is_closed else f"sessions={len(self._sessions)}"
        count = len(self._settings.endpoints)
        return f"<AsyncClient endpoints={count} {state} held={len(self._holds)}>"


def _bound(options: LockOptions, now: float) -> Bound | None:
    if not options.is_bounded:
        return None
    return Bound(
        now,
        math.inf if options.max_hold is None else options.max_hold,
        math.inf if options.progress_within is None else options.progress_within,
    )


def _transport(settings: Settings, ports: Ports) -> Transport:
    if settings.store is not None:
        return open_store(settings.store, ports.clock, ports.draw)
    plain = HttpTransport(
        clock=ports.clock, encoding=settings.encoding, token=settings.token, tls=settings.tls
    )
    return StreamTransport(plain, ports.clock) if settings.stream else plain


def _is_final(answer: Answer) -> bool:
    """Whether the answer decides the acquire; otherwise its session (or a hold that ended at once) is over, and it is asked
    again through a new one."""
    if answer.status < 400:
        return False
    code = answer.body.get("code")
    return code not in SESSION_GONE_CODES and code != wire.Code.NOT_HELD


def _waited_in_vain(answer: Answer) -> bool:
    return answer.body.get("code") == wire.Code.WAIT_TIMEOUT
