"""The API's calls, answered by a store: a request comes in, is checked, goes to the store's typed port, and its answer goes out.

Rules:
* The paths, bodies, limits and problem codes are those of the HTTP API (`wire.py`), so that whoever sits on top sees no difference.
* A store says what came of a call in one of four ways: it returns; it raises `Refusal` (definite: it took no effect), `NotSent`
  (surely took no effect), or `NoAnswer` (it may have).
* The id of a session is a secret of its creator: others see a hash of it, which is one-way because ids are random.
It knows no store.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from holdfast import wire
from holdfast.errors import ClientClosed
from holdfast.transport import Answer, NoAnswer
from holdfast.views import Previous
from holdfast.wire import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.clock import Clock
    from holdfast.transport import Request

REQUESTS_REMEMBERED_MAX: Final = 10_000
"""Outcomes that one session may have unsettled; the client keeps a handful, and begins a new session long before."""
RELEASES_REMEMBERED: Final = 1_000
"""Per session: a release is repeated within seconds, or not at all."""
PREVIOUS_REMEMBERED: Final = 200_000
"""Keys whose last ended hold is kept; what was dropped lies at or below `previous_horizon`."""
ENDED_SESSION_SECONDS: Final = 3600
"""For so long the id of an ended session is known, and cannot be opened again."""
WAITERS_SHOWN_MAX: Final = 100
"""Of one queue in an answer; `queue_length` counts all of it."""
LIST_LIMIT_DEFAULT: Final = 100
RETRY_AFTER_MS: Final = 50
"""After `overloaded`: what was in the way is a transaction, and those are short."""

_SESSION_ID: Final = re.compile(
    rf"[A-Za-z0-9._~-]{{{wire.SESSION_ID_CHARS_MIN},{wire.SESSION_ID_CHARS_MAX}}}"
)
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and lone surrogates, which UTF-8 cannot carry."""


class Refusal(Exception):
    """A definite answer that is not a success. `extra`: more members of the problem (`holders`, `ended`, ...)."""

    def __init__(self, code: Code, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.extra = extra

    def again(self) -> Refusal:
        """The same answer to another call: an exception that is raised twice collects the tracebacks of both."""
        return Refusal(self.code, self.detail, **self.extra)

    def body(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "code": self.code.value,
            "status": wire.HTTP_STATUS[self.code],
            "detail": self.detail,
            **self.extra,
        }


def overloaded(detail: str) -> Refusal:
    """It took no effect, and asking again is right."""
    return Refusal(Code.OVERLOADED, detail, retry_after_ms=RETRY_AFTER_MS)


def session_gone(ended: str | None) -> Refusal:
    """No such session; `ended`: how it ended, if that is remembered."""
    if ended is None:
        return Refusal(Code.NO_SUCH_SESSION, "no session of this id is open", field="session")
    how = "was closed" if ended == "released" else "has expired"
    return Refusal(Code.SESSION_EXPIRED, f"the session {how}; all it held has ended", ended=ended)


def not_held(ended: str | None) -> Refusal:
    """There is no such hold (of this session); `ended`: how it ended, if that is remembered."""
    if ended is None:
        return Refusal(Code.NOT_HELD, "this session holds nothing under this token")
    return Refusal(Code.NOT_HELD, f"the hold has ended: {ended}", ended=ended)


def request_conflict(detail: str) -> Refusal:
    """The request id was used for something else, or is settled."""
    return Refusal(Code.CONFLICT, detail, field="request_id")


SETTLED: Final = "this request id was settled; it is never executed again"
OTHER_BODY: Final = "this request id was used with another body"


def waited_in_vain(detail: str = "waited in vain") -> Refusal:
    """The wait is over."""
    return Refusal(Code.WAIT_TIMEOUT, detail)


def superseded() -> Refusal:
    """To an older call of one waiting acquire: the newest one is told."""
    return Refusal(
        Code.UNKNOWN_OUTCOME, "another call under the same request id waits in place of this one"
    )


def too_many_requests() -> Refusal:
    """The session has too much that is unsettled."""
    return Refusal(
        Code.LIMIT_REACHED,
        f"the limit of {REQUESTS_REMEMBERED_MAX} remembered requests of a session is reached",
        limit="request_ids_per_session_max",
    )


def held(holders: list[HolderView], queue_length: int) -> Refusal:
    """Somebody holds it, or waits for it, and the caller does not wait."""
    return Refusal(
        Code.HELD,
        "a key is held or waited for",
        holders=[each.body() for each in holders],
        queue_length=queue_length,
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """An acquire. Integers in milliseconds, as everywhere in the ports of stores."""

    session: str
    request_id: int
    keys: tuple[str, ...]
    wait_ms: int
    settled: int
    owner: str | None
    context: str | None

    @property
    def fingerprint(self) -> str:
        """The body without `wait_ms` and `settled`, which may differ from one ask to the next."""
        body = json.dumps([self.keys, self.owner, self.context], ensure_ascii=False)
        return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Granted:
    """The decision that an acquire holds its keys. `previous`: in the order of the keys."""

    token: int
    keys: tuple[str, ...]
    remaining_ms: int
    previous: tuple[Previous | None, ...]
    previous_horizon: int


@dataclass(frozen=True, slots=True)
class HolderView:
    token: int
    session: str
    owner: str | None
    remaining_ms: int

    def body(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "session_ref": session_ref(self.session),
            "owner": self.owner,
            "mode": "exclusive",
            "remaining_ms": max(0, self.remaining_ms),
        }


@dataclass(frozen=True, slots=True)
class WaiterView:
    session: str
    owner: str | None
    keys: tuple[str, ...]
    remaining_wait_ms: int

    def body(self) -> dict[str, Any]:
        return {
            "session_ref": session_ref(self.session),
            "owner": self.owner,
            "keys": list(self.keys),
            "mode": "exclusive",
            "remaining_wait_ms": max(0, self.remaining_wait_ms),
        }


@dataclass(frozen=True, slots=True)
class LockView:
    """One key. `waiters`: the head of the queue."""

    key: str
    holder: HolderView | None
    waiters: list[WaiterView] = field(default_factory=list)
    queue_length: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "holders": [] if self.holder is None else [self.holder.body()],
            "waiters": [each.body() for each in self.waiters],
            "queue_length": self.queue_length,
        }


class Store(Protocol):
    """The port of a store. Every method raises as the module says; each acts at most once for one call."""

    name: str

    async def open_session(self, session: str, ttl_ms: int, owner: str | None) -> int:
        """The milliseconds left. Idempotent; another TTL under the same id is a `conflict`, an ended id `session_expired`."""
        ...

    async def renew(self, session: str) -> int:
        """The lease begins anew; the milliseconds left."""
        ...

    async def close(self, session: str) -> list[int]:
        """End a session; the tokens that this released. Idempotent."""
        ...

    async def acquire(self, ask: Ask) -> Granted:
        """Decided at once, or after up to `wait_ms` in the queue. A repeat attaches to the waiter, or gets the same outcome."""
        ...

    async def release(self, session: str, token: int) -> None:
        """End a hold. Idempotent."""
        ...

    async def cancel(self, session: str, request_id: int) -> int | None:
        """Take an acquire back: its waiter, or its hold, whose token is returned. One that has not come yet will never act."""
        ...

    async def read(self, key: str) -> LockView:
        """One key."""
        ...

    async def locks(self, prefix: str, after: str | None, limit: int) -> list[LockView]:
        """Up to `limit` keys that are held or waited for, by key."""
        ...

    async def time_ms(self) -> int:
        """The store's clock. Asking it shows that the store answers."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads."""
        ...


class StoreTransport:
    """A store as the transport of a client."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._is_closed = False

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        if self._is_closed:
            raise ClientClosed("the client was closed")
        sent_at = self._clock.now()
        try:
            async with self._clock.timeout(seconds):
                await asyncio.sleep(
                    0
                )  # a store in memory never waits, and whoever calls in a loop must not starve the others
                status, body = await self._call(request)
        except Refusal as refusal:
            return Answer(wire.HTTP_STATUS[refusal.code], refusal.body(), sent_at, endpoint)
        except TimeoutError as error:
            raise NoAnswer(f"{endpoint} did not answer within {seconds:.3g} s") from error
        return Answer(status, body, sent_at, endpoint)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._store.aclose()

    async def _call(self, request: Request) -> tuple[int, dict[str, Any]]:
        store, body = self._store, Body(request.body or {})
        path = request.path.removeprefix(wire.API_PREFIX)
        if path == "/sessions":
            session, ttl_ms, owner = body.session(), body.ttl_ms(), body.owner()
            body.nothing_else()
            remaining_ms = await store.open_session(session, ttl_ms, owner)
            return 201, {"session": session, "ttl_ms": ttl_ms, "remaining_ms": remaining_ms}
        if path == "/sessions/renew":
            session = body.only_session()
            return 200, {"remaining_ms": await store.renew(session)}
        if path == "/sessions/close":
            session = body.only_session()
            return 200, {"released": await store.close(session)}
        if path == "/locks/acquire":
            return 200, _grant_body(body.ask(), await store.acquire(body.ask()))
        if path == "/locks/release":
            session, token = body.session(), body.integer("token", 1, wire.INTEGER_MAX)
            body.nothing_else()
            await store.release(session, token)
            return 200, {"released": True}
        if path == "/locks/cancel":
            session, request_id = body.session(), body.integer("request_id", 0, wire.INTEGER_MAX)
            body.nothing_else()
            return 200, {"released": await store.cancel(session, request_id)}
        if path == "/locks/read":
            return 200, await self._read(body)
        if path == "/cluster":
            return 200, _cluster_body(store.name, await store.time_ms())
        raise Refusal(Code.NOT_FOUND, f"a store has no {path}")

    async def _read(self, body: Body) -> dict[str, Any]:
        if "key" in body.fields:
            key = body.key("key")
            body.nothing_else()
            return (await self._store.read(key)).body()
        prefix = body.key("prefix") if body.fields.get("prefix") else ""
        after = None if body.fields.get("after") is None else body.key("after")
        limit = body.integer("limit", 1, wire.LIST_LIMIT_MAX, LIST_LIMIT_DEFAULT)
        found = await self._store.locks(prefix, after, limit + 1)
        page = found[:limit]
        return {
            "locks": [each.body() for each in page],
            "next": page[-1].key if len(found) > limit else None,
        }


class Body:
    """A request's fields, checked as the HTTP API checks them. Raises `Refusal` (`bad_request`) that names the field."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields: Final = fields
        self._read: set[str] = {"prefix"}

    def nothing_else(self) -> None:
        """There is no field that nobody has asked for."""
        for name in self.fields:
            if name not in self._read:
                raise bad_request(name, "there is no such field")

    def session(self) -> str:
        value = self._take("session")
        if not isinstance(value, str) or not _SESSION_ID.fullmatch(value):
            raise bad_request("session", "is not the id of a session")
        return value

    def only_session(self) -> str:
        session = self.session()
        self.nothing_else()
        return session

    def ttl_ms(self) -> int:
        return self.integer("ttl_ms", wire.TTL_MS_MIN, wire.TTL_MS_MAX)

    def owner(self) -> str | None:
        return self._text("owner", wire.OWNER_BYTES_MAX)

    def ask(self) -> Ask:
        """An acquire. It needs a session and a request id; a store knows no sessions of one lock."""
        ask = Ask(
            session=self.session(),
            request_id=self.integer("request_id", 0, wire.INTEGER_MAX),
            keys=self._keys(),
            wait_ms=self.integer("wait_ms", 0, wire.WAIT_MS_MAX, 0),
            settled=self.integer("settled", -1, wire.INTEGER_MAX, -1),
            owner=self.owner(),
            context=self._text("context", wire.CONTEXT_BYTES_MAX),
        )
        if self._take("mode") not in (None, "exclusive"):
            raise bad_request("mode", "is exclusive; a store knows no other")
        self.nothing_else()
        return ask

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise bad_request(name, f"must be a whole number from {low} to {high}")
        return value

    def key(self, name: str) -> str:
        self._read.add(name)
        return _checked_key(name, self.fields.get(name))

    def _keys(self) -> tuple[str, ...]:
        several = self._take("keys")
        if several is None:
            return (self.key("key"),)
        if (
            not isinstance(several, list | tuple)
            or not 0 < len(several) <= wire.KEYS_PER_ACQUIRE_MAX
        ):
            raise bad_request("keys", f"must be 1 to {wire.KEYS_PER_ACQUIRE_MAX} keys")
        keys = tuple(_checked_key(f"keys[{place}]", each) for place, each in enumerate(several))
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise bad_request(f"keys[{place}]", "is named twice")
        return keys

    def _text(self, name: str, bytes_max: int) -> str | None:
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str) or _FORBIDDEN.search(value):
            raise bad_request(name, "must be text without control characters")
        if len(value.encode()) > bytes_max:
            raise bad_request(name, f"is longer than {bytes_max} bytes of UTF-8")
        return value

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self.fields.get(name)


def bad_request(field_name: str, detail: str) -> Refusal:
    """The request itself is wrong."""
    return Refusal(Code.BAD_REQUEST, f"{field_name}: {detail}", field=field_name)


def _checked_key(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise bad_request(name, "is empty, or no text")
    if _FORBIDDEN.search(value):
        raise bad_request(name, "has a control character")
    if len(value.encode()) > wire.KEY_BYTES_MAX:
        raise bad_request(name, f"is longer than {wire.KEY_BYTES_MAX} bytes of UTF-8")
    return value


def session_ref(session: str) -> str:
    """What others see of a session."""
    return hashlib.blake2b(session.encode(), digest_size=8, person=b"holdfast").hexdigest()


def previous_of(token: int | None, ended: str | None) -> Previous | None:
    """The last hold of a key, if one is remembered."""
    return Previous(int(token), ended) if token and ended else None


def _grant_body(ask: Ask, granted: Granted) -> dict[str, Any]:
    told = [
        None if each is None else {"token": each.token, "ended": each.ended}
        for each in granted.previous
    ]
    return {
        "token": granted.token,
        "fence": granted.token,
        "keys": list(granted.keys),
        "mode": "exclusive",
        "session": ask.session,
        "remaining_ms": granted.remaining_ms,
        "previous": told[0] if len(told) == 1 else dict(zip(granted.keys, told, strict=True)),
        "previous_horizon": granted.previous_horizon,
    }


def _cluster_body(name: str, time_ms: int) -> dict[str, Any]:
    """A store looks like a cluster of one node that leads itself."""
    node = {"name": name, "http": None, "raft": None, "state": "leader", "match_index": None}
    return {
        "cluster": name,
        "node": name,
        "leader": name,
        "term": 0,
        "nodes": [node],
        "commit_index": 0,
        "applied_index": 0,
        "cluster_time_ms": time_ms,
    }
