"""What a client asks and is answered, written down as history: a transport around the one that the client library would use.

Rules:
* The library decides everything: when to ask again, where, and what to tell its user. Here it is only looked at.
* All attempts under one request id (or about one token) are one operation, from the first call to the first definite answer.
  An answer that says nothing definite leaves the operation open; it may have taken effect.
* What no attempt could decide is decided by what the library told its user (`asked`): whoever is told that nothing happened is held
  to that.
* Sessions are known by what others see of them, `session_ref`, in the simulator as in a live run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast import wire
from holdfast.requests import BUSY_CODES, SESSION_GONE_CODES
from holdfast.transport import Answer, Endpoints, NotSent, Request, Steering, Telling
from holdfast.wire import Code
from holdfast_jepsen.history import Lease, Operation, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.transport import Transport
    from holdfast_jepsen.history import History

OPEN = f"{wire.API_PREFIX}/sessions"
RENEW, CLOSE = f"{OPEN}/renew", f"{OPEN}/close"
LOCKS = f"{wire.API_PREFIX}/locks"
ACQUIRE, CANCEL = f"{LOCKS}/acquire", f"{LOCKS}/cancel"
RELEASE, COMPLETE = f"{LOCKS}/release", f"{LOCKS}/complete"
DECIDED_AFTER_ALL = frozenset({Code.HELD, Code.ALREADY_DONE, Code.WAIT_TIMEOUT})
"""Refusals of an acquire that are remembered under its request id: they speak of every attempt. What an earlier attempt did before
any other refusal may have ended since, and nobody remembers it."""


@dataclass(slots=True)
class _Record:
    operation: Operation
    open: int = 0
    """Attempts that have neither been answered nor given up."""
    may_have: bool = False
    """An attempt that brought no answer may have taken effect."""


def session_refs(cluster_key: bytes) -> Callable[[str], str]:
    """What the nodes of a cluster with this key show of a session: as `Node.session_ref`."""
    key = hashlib.blake2b(cluster_key, digest_size=32).digest()
    return lambda session: hashlib.blake2b(session.encode(), key=key, digest_size=8).hexdigest()


class Recorder:
    """A `Transport`. `now`: true time in nanoseconds; `ref`: what others see of a session; `millisecond_ns`: how long one of the
    library's milliseconds is; `before_sending` is called with the history as it has to be if nothing more is ever heard of
    this process."""

    def __init__(
        self,
        inner: Transport,
        history: History,
        process: str,
        *,
        now: Callable[[], int],
        ref: Callable[[str], str],
        millisecond_ns: int,
        before_sending: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_over = False
        """The process is gone: nothing is sent any more, whatever its code would do behind itself."""
        self.done = 0
        """Operations that were answered definitely."""
        self.asked: dict[str, list[Operation]] = {}
        """By the user's note (`context=`), the first word of it: what the library asked for the sake of one acquire."""
        self._inner = inner
        self._history = history
        self._process = process
        self._now = now
        self._ref = ref
        self._millisecond_ns = millisecond_ns
        self._before_sending = before_sending
        self._records: dict[tuple[object, ...], _Record] = {}
        self._keys: dict[int, tuple[str, ...]] = {}
        """Of each token that was granted."""

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        """See `holdfast.transport.Transport`."""
        if self.is_over:
            raise NotSent("the process is gone")
        record, sent = self._record_of(request), self._now()
        self._before_sending()
        record.open += 1
        try:
            answer = await self._inner.attempt(endpoint, request, seconds=seconds)
        except NotSent:
            record.open -= 1
            raise
        except BaseException:
            record.open -= 1
            record.may_have = True
            raise
        record.open -= 1
        self._answered(record, request, answer, sent)
        return answer

    def tell(self, session: str, told: Callable[[tuple[int, ...] | None], None]) -> None:
        """See `holdfast.transport.Telling`."""
        if isinstance(self._inner, Telling):
            self._inner.tell(session, told)

    def tell_no_more(self, session: str) -> None:
        """See `holdfast.transport.Telling`."""
        if isinstance(self._inner, Telling):
            self._inner.tell_no_more(session)

    def steer(self, endpoints: Endpoints) -> None:
        """See `holdfast.transport.Steering`."""
        if isinstance(self._inner, Steering):
            self._inner.steer(endpoints)

    async def aclose(self) -> None:
        """The connections are those of the process, not of one client of it."""

    # What is asked.

    def _record_of(self, request: Request) -> _Record:
        body: Mapping[str, Any] = request.body or {}
        path, session = request.path, body.get("session")
        name = body.get("request_id", body.get("token"))
        if path == ACQUIRE and name is None:
            name = object()  # nobody can ask again for what this acquires
        about = path, session, name
        record = self._records.get(about)
        if record is None:
            record = self._records[about] = _Record(self._operation(path, body))
        return record

    def _operation(self, path: str, body: Mapping[str, Any]) -> Operation:
        """A new one. Renewals and readings are none; they are not kept."""
        made = Operation(self._process, "end", (), self._ref(str(body.get("session"))), self._now())
        match path:
            case _ if path == ACQUIRE:
                made.kind = "acquire"
                made.keys = (body["key"],) if "key" in body else tuple(body["keys"])
                made.request = body.get("request_id", 0)
                made.ttl_ns = body.get("ttl_ms", 0) * self._millisecond_ns
                made.shared = body.get("mode") == "shared"
                made.limit = body.get("limit") or 0
                note = str(body.get("context", "")).partition(" ")[0]
                self.asked.setdefault(note, []).append(made)
            case _ if path in (RELEASE, COMPLETE):
                made.kind = "release" if path == RELEASE else "complete"
                made.token = body["token"]
                made.keys = self._keys.get(made.token, ())
                made.ttl_ns = body.get("retain_ms", 0) * self._millisecond_ns
            case _ if path == CANCEL:
                made.kind = "cancel"
                made.request = body["request_id"]
            case _ if path == CLOSE:
                pass
            case _:
                return made
        self._history.operations.append(made)
        return made

    # What is answered.

    def _answered(self, record: _Record, request: Request, answer: Answer, sent: int) -> None:
        code = answer.body.get("code")
        if answer.status >= 400 and code in BUSY_CODES:
            return
        if answer.status >= 500 or code == Code.UNKNOWN_OUTCOME:
            record.may_have = True
            return
        if code in SESSION_GONE_CODES and request.path != CLOSE:
            self._told_over(record.operation.session, sent)
        if request.path in (OPEN, RENEW):
            self._leased(request, answer, sent)
            return
        operation = record.operation
        if operation.returned is not None:
            if operation.token and answer.body.get("token", operation.token) != operation.token:
                raise AssertionError(f"request {operation.request} was granted two tokens")
            return
        operation.returned = self._now()
        self.done += 1
        if answer.status < 400:
            self._succeeded(operation, answer.body)
        elif operation.kind != "end":
            self._refused(record, answer.body)

    def _leased(self, request: Request, answer: Answer, sent: int) -> None:
        if answer.status < 400:
            body = request.body or {}
            # An old session may have been found: what it says remains is all that can be relied on.
            lasts = min(answer.body["remaining_ms"], body.get("ttl_ms", wire.TTL_MS_MAX))
            lease = Lease(self._ref(body["session"]), sent, lasts * self._millisecond_ns)
            self._history.leases.append(lease)
            self.done += 1

    def _told_over(self, session: str, sent: int) -> None:
        told = Operation(self._process, "told over", (), session, sent, self._now(), "not_held")
        self._history.operations.append(told)

    def _succeeded(self, operation: Operation, body: Mapping[str, Any]) -> None:
        operation.result = "ok"
        if operation.kind != "acquire":
            return
        operation.token = token = body["token"]
        self._keys[token] = operation.keys
        fence = body["fence"]
        if operation.shared and fence is not None:
            keys = operation.keys
            operation.fences = (
                tuple(fence[each] for each in keys)
                if isinstance(fence, dict)
                else (fence,) * len(keys)
            )

    def _refused(self, record: _Record, body: Mapping[str, Any]) -> None:
        operation, code = record.operation, body.get("code")
        operation.result = "refused"
        if operation.kind in ("release", "complete"):
            if code == Code.NOT_HELD or code in SESSION_GONE_CODES:
                operation.result = "not_held"
        elif code == Code.HELD:
            operation.result = "held"
            if len(operation.keys) == 1:
                operation.holders = tuple(_seen(each) for each in body.get("holders") or ())
        elif code == Code.ALREADY_DONE and body.get("closed"):
            # Of several keys only one is told of; what it says is of that one.
            operation.result = "done" if len(operation.keys) == 1 else "refused"
            operation.done = body["closed"]["token"]
        elif code == Code.NOT_HELD:
            # It had been granted under this name, and its hold has ended since.
            operation.result, operation.returned = "unknown", None
        may_have = record.may_have or record.open > 0
        if may_have and code not in DECIDED_AFTER_ALL:
            operation.result, operation.returned = "unknown", None


def _seen(holder: Mapping[str, Any]) -> Seen:
    shared = holder.get("mode") == "shared"
    return Seen(holder["token"], holder["session_ref"], shared, holder.get("limit") or 0)
