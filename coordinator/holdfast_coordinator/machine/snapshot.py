"""The whole state as bytes, and back. Versioned msgpack.

Rule: canonical. Replicas in equal states write equal bytes, whether they got there by replay or by a snapshot. What can be
rebuilt (heaps, indexes, queues) is left out: it may hold left-overs of its own history. Everything else is written in the
order of the dict that holds it, which the log alone determines.

Reading goes in steps, for a node that reads a state of 100,000 locks (half a second) must answer its leader meanwhile.

Reading trusts the envelope (checksum, authenticity) to others; what is not a snapshot of this version raises
`SnapshotUnreadable`, and nothing is half restored.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import msgpack

from .codec import pack, stream
from .limits import Limits
from .operations import Origin
from .outcomes import Holder, Previous, Refused
from .state import Hold, Request, RequestBook, Session, State, Waiter
from .table import link_hold, link_waiter

SNAPSHOT_VERSION: Final = 1

SECTIONS: Final = 11

STEP_ITEMS: Final = 1_000
"""Sessions, holds and so on that are read in one step: about three milliseconds."""


class SnapshotUnreadable(ValueError):
    """These bytes are no snapshot of this version: take another one, or replay the log."""


def encode_state(state: State) -> bytes:
    history, totals = state.history, state.totals
    return pack(
        [
            SNAPSHOT_VERSION,
            [
                state.cluster_time_ms,
                state.last_term,
                state.last_token,
                state.next_waiter,
                history.horizon,
            ],
            [[node, boot, sequence] for node, (boot, sequence) in state.origins.last.items()],
            [_encode_session(session) for session in state.sessions.values()],
            [_encode_hold(hold) for hold in state.holds.values()],
            [_encode_waiter(waiter) for waiter in state.waiters.values()],
            [_encode_requests(session) for session in state.sessions.values() if session.requests],
            [[key, *_encode_previous(previous)] for key, previous in history.previous.items()],
            [[token, *history.endings[token]] for token in history.ending_order],
            [[name, history.ended_sessions[name]] for name in history.ended_order],
            [
                totals.grants,
                totals.releases,
                totals.expired_holds,
                totals.expired_sessions,
                totals.wait_timeouts,
            ],
        ]
    )


def decode_state(data: bytes, limits: Limits) -> Generator[None, None, State]:
    """Step by step: the state is the value of the generator's end. Raises SnapshotUnreadable from any step."""
    try:
        return (yield from _decode(_Sections(data), limits))
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
            f"not a snapshot of version {SNAPSHOT_VERSION}: {error}"
        ) from error


class _Sections:
    """The parts of a snapshot in their order, each read when it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._stream = stream(data)
        self._length = len(data)
        self._read = 0
        if self._stream.read_array_header() != SECTIONS:
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
    version, numbers = sections.whole(), sections.whole()
    if version != SNAPSHOT_VERSION:
        raise SnapshotUnreadable(f"version {version!r}")
    state = State(limits)
    history = state.history
    state.cluster_time_ms, state.last_term, state.last_token = numbers[:3]
    state.next_waiter, history.horizon = numbers[3:]
    state.origins.last = {node: (boot, sequence) for node, boot, sequence in sections.items()}
    for name, ttl_ms, owner, implicit, deadline_ms in sections.items():
        if sections.step_is_over:
            yield
        session = state.sessions[name] = Session(name, ttl_ms, owner, implicit, deadline_ms)
        state.deadlines.add_session(session)
    for token, name, keys, owner in sections.items():
        if sections.step_is_over:
            yield
        link_hold(state, state.sessions[name], Hold(token, name, tuple(keys), owner))
    for number, name, keys, owner, request_id, attachment, deadline_ms in sections.items():
        if sections.step_is_over:
            yield
        origin = Origin(*attachment)
        waiter = Waiter(number, name, tuple(keys), owner, request_id, origin, deadline_ms)
        link_waiter(state, state.sessions[name], waiter)
    for name, settled, by_id in sections.items():
        if sections.step_is_over:
            yield
        state.sessions[name].requests = _decode_requests(state, settled, by_id)
    for key, token, how in sections.items():
        if sections.step_is_over:
            yield
        history.previous[key] = Previous(token, how)
    yield
    history.rebuild_heap()
    for token, name, how in sections.items():
        if sections.step_is_over:
            yield
        history.endings[token] = (name, how)
        history.ending_order.append(token)
    for name, how in sections.items():
        if sections.step_is_over:
            yield
        history.ended_sessions[name] = how
        history.ended_order.append(name)
    totals = sections.whole()
    sections.end()
    counted = state.totals
    counted.grants, counted.releases, counted.expired_holds = totals[:3]
    counted.expired_sessions, counted.wait_timeouts = totals[3:]
    return state


def _encode_session(session: Session) -> list[Any]:
    return [session.id, session.ttl_ms, session.owner, session.implicit, session.deadline_ms]


def _encode_hold(hold: Hold) -> list[Any]:
    return [hold.token, hold.session, hold.keys, hold.owner]


def _encode_waiter(waiter: Waiter) -> list[Any]:
    return [
        waiter.number,
        waiter.session,
        waiter.keys,
        waiter.owner,
        waiter.request_id,
        waiter.attachment,
        waiter.deadline_ms,
    ]


def _encode_previous(previous: Previous) -> list[Any]:
    return [previous.token, previous.ended]


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
        request.fingerprint,
        None if request.waiter is None else request.waiter.number,
        None if hold is None else [*_encode_hold(hold), hold.ended],
        None if refused is None else _encode_refused(refused),
        [None if before is None else _encode_previous(before) for before in request.previous],
        request.previous_horizon,
    ]


def _encode_refused(refused: Refused) -> list[Any]:
    holders = [[h.token, h.session, h.owner, h.mode, h.remaining_ms] for h in refused.holders]
    return [
        str(refused.code),
        refused.detail,
        refused.field,
        refused.limit,
        refused.ended,
        holders,
        refused.queue_length,
    ]


def _decode_requests(state: State, settled: int, by_id: list[Any]) -> RequestBook:
    book = RequestBook(settled=settled)
    for request_id, fingerprint, number, hold, refused, previous, horizon in by_id:
        request = Request(None, previous_horizon=horizon)
        if fingerprint is not None:
            keys, *others = fingerprint
            request.fingerprint = (tuple(keys), *others)
        if number is not None:
            request.waiter = state.waiters[number]
        if hold is not None:
            token, name, keys, owner, ended = hold
            lasting = ended is None
            request.hold = (
                state.holds[token] if lasting else Hold(token, name, tuple(keys), owner, ended)
            )
        if refused is not None:
            code, detail, field, limit, ended, holders, queue_length = refused
            known = tuple(Holder(*holder) for holder in holders)
            request.refused = Refused(code, detail, field, limit, ended, known, queue_length)
        request.previous = tuple(
            None if before is None else Previous(*before) for before in previous
        )
        book.by_id[request_id] = request
    book.integer_ids = sorted(name for name in book.by_id if isinstance(name, int))
    return book
