"""The whole state as bytes, and back. Versioned msgpack; the level of the state (`levels.py`) says which version.

Rule: canonical. Replicas in equal states write equal bytes, whether they got there by replay or by a snapshot. What can be
rebuilt (heaps, indexes, queues) is left out: it may hold left-overs of its own history. Everything else is written in the
order of the dict that holds it, which the log alone determines.

Reading goes in steps, for a node that reads a state of 100,000 locks (half a second) must answer its leader meanwhile.

Reading trusts the envelope (checksum, authenticity) to others; what is not a snapshot of a known version raises
`SnapshotUnreadable`, and nothing is half restored.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import msgpack

from . import quotas
from .codec import decode_terms, encode_terms
from .levels import KNOWN, LEVEL_MAX
from .limits import Limits
from .operations import PLAIN, Origin, Terms
from .outcomes import Blocked, ClosedView, Ended, Holder, Note, Previous, Refused
from .packing import pack, stream
from .state import (
    Closure,
    Fingerprint,
    Hold,
    Phase,
    Request,
    RequestBook,
    RequestId,
    Session,
    State,
    Waiter,
)
from .table import fences_of, link_closure, link_hold, link_waiter
from .trail import Block

LEVEL_1_VERSION: Final = 2
"""Of a state of level 1, which does not say so: the last version that nodes of level 1 can read."""

VERSION: Final = 3
"""Of every higher level."""

STEP_ITEMS: Final = 1_000
"""Sessions, holds and so on that are read in one step: about three milliseconds."""


class SnapshotUnreadable(ValueError):
    """These bytes are no snapshot that this version can read: take another one, or replay the log."""


def encode_state(state: State) -> bytes:
    history, totals, trail = state.history, state.totals, state.trail
    knows_levels = state.level > 1
    return pack(
        [
            VERSION if knows_levels else LEVEL_1_VERSION,
            [
                state.cluster_time_ms,
                state.last_term,
                state.last_token,
                state.next_waiter,
                history.horizon,
                trail.before,
                trail.open_first,
                *((state.level,) if knows_levels else ()),
            ],
            [
                totals.grants,
                totals.releases,
                totals.expired_holds,
                totals.expired_sessions,
                totals.wait_timeouts,
                totals.forced_holds,
                totals.deadlocks,
            ],
            [[node, boot, sequence] for node, (boot, sequence) in state.origins.last.items()],
            [_encode_session(session) for session in state.sessions.values()],
            [_encode_living_hold(state, hold) for hold in state.holds.values()],
            [_encode_waiter(waiter) for waiter in state.waiters.values()],
            [_encode_requests(session) for session in state.sessions.values() if session.requests],
            [[key, *_encode_previous(previous)] for key, previous in history.previous.items()],
            [
                [token, *history.endings[token], *history.forced.get(token, ())]
                for token in history.ending_order
            ],
            [[name, history.ended_sessions[name]] for name in history.ended_order],
            [_encode_closure(closure) for closure in state.closures.values()],
            [[key, *_encode_note(note)] for key, note in state.checkpoints.items()],
            trail.blocks,
            trail.open,
        ]
    )


def decode_state(data: bytes, limits: Limits) -> Generator[None, None, State]:
    """Step by step: the state is the value of the generator's end. Raises SnapshotUnreadable from any step."""
    try:
        return (yield from _decode(_Sections(data), limits))
    except SnapshotUnreadable:
        raise
    except (
        msgpack.UnpackException,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise SnapshotUnreadable(
            f"not a snapshot of version {LEVEL_1_VERSION} or {VERSION}: {error}"
        ) from error


class _Sections:
    """The parts of a snapshot in their order, each read when it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._stream = stream(data)
        self._length = len(data)
        self._read = 0
        sections = self._stream.read_array_header()
        self.version = self._stream.unpack()
        if type(self.version) is int and self.version > VERSION:
            raise SnapshotUnreadable(
                f"it is of version {self.version}, and this version of holdfast reads versions up to {VERSION}; "
                "start the newer version that wrote it"
            )
        if self.version not in (LEVEL_1_VERSION, VERSION):
            raise ValueError(f"version {self.version!r}")
        if sections != 3 + len(_READERS):
            raise ValueError("another number of sections")

    def whole(self) -> Any:
        return self._stream.unpack()

    def items(self) -> Iterator[Any]:
        for _ in range(self._stream.read_array_header()):
            yield self._stream.unpack()
            self._read += 1

    @property
    def step_is_over(self) -> bool:
        return self._read % STEP_ITEMS == 0

    def end(self) -> None:
        if self._stream.tell() != self._length:
            raise ValueError("bytes behind the end")


def _decode(sections: _Sections, limits: Limits) -> Generator[None, None, State]:
    numbers, totals = sections.whole(), sections.whole()
    state = State(limits)
    if sections.version == VERSION:
        state.level = _level(numbers.pop())
    history, counted, trail = state.history, state.totals, state.trail
    state.cluster_time_ms, state.last_term, state.last_token = numbers[:3]
    state.next_waiter, history.horizon, trail.before, trail.open_first = numbers[3:]
    counted.grants, counted.releases, counted.expired_holds = totals[:3]
    counted.expired_sessions, counted.wait_timeouts = totals[3:5]
    counted.forced_holds, counted.deadlocks = totals[5:]
    for read in _READERS:
        for item in sections.items():
            if sections.step_is_over:
                yield
            read(state, *item)
    sections.end()
    yield
    history.rebuild_heap()
    return state


def _read_origin(state: State, node: str, boot: int, sequence: int) -> None:
    state.origins.last[node] = (boot, sequence)


def _read_session(
    state: State,
    name: str,
    ttl_ms: int,
    owner: str | None,
    implicit: bool,
    deadline_ms: int | None,
    forced: list[int] | None,
) -> None:
    session = state.sessions[name] = Session(name, ttl_ms, owner, implicit, deadline_ms)
    session.forced = forced
    state.deadlines.add_session(session)
    if state.limits.quotas:
        quotas.count_session(state, session, 1)


def _read_hold(state: State, fences: list[int], *fields: Any) -> None:
    """A phase may have been opened by a hold that has ended since, so its fence comes from the snapshot."""
    hold = _decode_hold(*fields)
    link_hold(state, state.sessions[hold.session], hold)
    for key, fence in zip(hold.keys, fences, strict=False):
        phase = state.standing[key]
        if isinstance(phase, Phase):
            phase.fence = fence


def _level(value: object) -> int:
    """A level that this version does not know may mean anything by what follows."""
    if type(value) is not int or not 1 < value <= LEVEL_MAX:
        raise ValueError(f"level {value!r}")
    if (why_not := KNOWN.why_not(value)) is not None:
        raise SnapshotUnreadable(f"it {why_not}")
    return value


def _read_waiter(
    state: State,
    number: int,
    session: str,
    keys: list[str],
    owner: str | None,
    terms: Any,
    context: str | None,
    request_id: RequestId | None,
    attachment: list[Any],
    since_ms: int,
    deadline_ms: int,
) -> None:
    asked = (tuple(keys), owner, decode_terms(terms), context, request_id, Origin(*attachment))
    waiter = Waiter(number, session, *asked, since_ms, deadline_ms)
    link_waiter(state, state.sessions[session], waiter)


def _read_requests(state: State, session: str, settled: int, by_id: list[Any]) -> None:
    state.sessions[session].requests = _decode_requests(state, settled, by_id)


def _read_previous(state: State, key: str, *fields: Any) -> None:
    state.history.previous[key] = Previous(*fields)


def _read_ending(state: State, token: int, session: str, ended: Ended, *forced: Any) -> None:
    state.history.endings[token] = (session, ended)
    state.history.ending_order.append(token)
    if forced:
        keys, floor = forced
        state.history.forced[token] = (tuple(keys), floor)


def _read_ended_session(state: State, session: str, ended: Ended) -> None:
    state.history.ended_sessions[session] = ended
    state.history.ended_order.append(session)


def _read_closure(state: State, *fields: Any) -> None:
    link_closure(state, Closure(*fields))


def _read_checkpoint(state: State, key: str, *fields: Any) -> None:
    note = state.checkpoints[key] = Note(*fields)
    state.tally.checkpoint_bytes += len(note.value.encode())


def _read_block(state: State, *fields: Any) -> None:
    block = Block(*fields)
    state.trail.blocks.append(block)
    state.trail.size += len(block.packed)


def _read_record(
    state: State, kind: str, cluster_ms: int, wall_ms: int, token: int, keys: list[str], *more: Any
) -> None:
    state.trail.open.append((kind, cluster_ms, wall_ms, token, tuple(keys), *more))
    state.trail.open_keys += len(keys)


_READERS: Final[tuple[Callable[..., None], ...]] = (
    _read_origin,
    _read_session,
    _read_hold,
    _read_waiter,
    _read_requests,
    _read_previous,
    _read_ending,
    _read_ended_session,
    _read_closure,
    _read_checkpoint,
    _read_block,
    _read_record,
)
"""One for each section behind the numbers, in the order in which `encode_state` writes them."""


def _encode_session(session: Session) -> list[Any]:
    return [
        session.id,
        session.ttl_ms,
        session.owner,
        session.implicit,
        session.deadline_ms,
        session.forced or None,
    ]


def _encode_hold(hold: Hold) -> list[Any]:
    return [
        hold.token,
        hold.session,
        hold.keys,
        hold.owner,
        _encode_terms(hold.terms),
        hold.context,
        hold.granted_ms,
    ]


def _encode_living_hold(state: State, hold: Hold) -> list[Any]:
    fences = () if hold.terms.mode == "exclusive" else fences_of(state, hold)
    return [fences, *_encode_hold(hold)]


def _decode_hold(
    token: int,
    session: str,
    keys: list[str],
    owner: str | None,
    terms: Any,
    context: str | None,
    granted_ms: int,
) -> Hold:
    return Hold(token, session, tuple(keys), owner, decode_terms(terms), context, granted_ms)


def _encode_closure(closure: Closure) -> list[Any]:
    return [
        closure.key,
        closure.by,
        closure.token,
        closure.ended,
        closure.deadline_ms,
        closure.result,
    ]


def _encode_terms(terms: Terms) -> list[Any] | None:
    return None if terms == PLAIN else encode_terms(terms)


def _encode_waiter(waiter: Waiter) -> list[Any]:
    return [
        waiter.number,
        waiter.session,
        waiter.keys,
        waiter.owner,
        _encode_terms(waiter.terms),
        waiter.context,
        waiter.request_id,
        waiter.attachment,
        waiter.since_ms,
        waiter.deadline_ms,
    ]


def _encode_previous(previous: Previous) -> list[Any]:
    return [previous.token, previous.ended, previous.floor, previous.resolved]


def _encode_requests(session: Session) -> list[Any]:
    book = session.requests or RequestBook()
    return [
        session.id,
        book.settled,
        [[request_id, *_encode_request(request)] for request_id, request in book.by_id.items()],
    ]


def _encode_request(request: Request) -> list[Any]:
    """Holds that last are named by their token; ended ones are known nowhere else and are written out."""
    hold, refused = request.hold, request.refused
    return [
        None if request.fingerprint is None else _encode_fingerprint(request.fingerprint),
        None if request.waiter is None else request.waiter.number,
        None if hold is None else [*_encode_hold(hold), hold.ended],
        None if refused is None else _encode_refused(refused),
        [None if before is None else _encode_previous(before) for before in request.previous],
        request.previous_horizon,
        [None if note is None else _encode_note(note) for note in request.checkpoints],
    ]


def _encode_note(note: Note) -> list[Any]:
    return [note.token, note.value, note.number]


def _encode_fingerprint(fingerprint: Fingerprint) -> list[Any]:
    keys, ttl_ms, owner, context, terms = fingerprint
    return [keys, ttl_ms, owner, context, _encode_terms(terms)]


def _encode_refused(refused: Refused) -> list[Any]:
    holders = [list(_fields(holder)) for holder in refused.holders]
    return [
        str(refused.code),
        refused.detail,
        refused.field,
        refused.limit,
        refused.ended,
        holders,
        refused.queue_length,
        None if refused.closed is None else list(_fields(refused.closed)),
        [list(_fields(step)) for step in refused.cycle],
    ]


def _fields(record: Holder | ClosedView | Blocked) -> Iterator[Any]:
    """In the order of the constructor. These records are flat."""
    return (getattr(record, name) for name in record.__struct_fields__)


def _decode_requests(state: State, settled: int, by_id: list[Any]) -> RequestBook:
    book = RequestBook(settled=settled)
    for request_id, fingerprint, number, hold, refused, previous, horizon, notes in by_id:
        request = Request(None, previous_horizon=horizon)
        if fingerprint is not None:
            keys, ttl_ms, owner, context, terms = fingerprint
            request.fingerprint = (tuple(keys), ttl_ms, owner, context, decode_terms(terms))
        if number is not None:
            request.waiter = state.waiters[number]
        if hold is not None:
            *fields, ended = hold
            request.hold = state.holds[fields[0]] if ended is None else _decode_hold(*fields)
            request.hold.ended = ended
        if refused is not None:
            code, detail, field, limit, ended, holders, queue_length, closed, cycle = refused
            request.refused = Refused(
                code,
                detail,
                field,
                limit,
                ended,
                tuple(Holder(*holder) for holder in holders),
                queue_length,
                None if closed is None else ClosedView(*closed),
                tuple(Blocked(*step) for step in cycle),
            )
        request.previous = tuple(
            None if before is None else Previous(*before) for before in previous
        )
        request.checkpoints = tuple(None if note is None else Note(*note) for note in notes)
        book.by_id[request_id] = request
    book.integer_ids = sorted(name for name in book.by_id if isinstance(name, int))
    return book
