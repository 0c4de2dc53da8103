"""Named acquires: remembered outcomes, repeats, and what a client has settled.

Rule: asking again under the same id never does the thing twice and gets the same outcome. A name is forgotten when its client
says that it is settled (integers), when its session ends, or when its wait was withdrawn because the caller had gone: then
nobody was told anything, and whoever asks again queues anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from .operations import Acquire, Origin
from .outcomes import Detached, Granted, Queued, Refused
from .refusals import conflict, not_held, too_many, wait_ended
from .state import Fingerprint, Out, Request, RequestBook, RequestId, Session, State, Waiter
from .table import dequeue, fence_of, position_of, promote, remaining_of


def fingerprint_of(operation: Acquire) -> Fingerprint:
    """The body without `wait_ms` and `settled`, which may differ from one ask to the next."""
    return (operation.keys, operation.ttl_ms, operation.owner, operation.context, operation.terms)


def remember(session: Session, request_id: RequestId, request: Request) -> None:
    book = session.requests
    if book is None:
        book = session.requests = RequestBook()
    book.by_id[request_id] = request
    if isinstance(request_id, int):
        ids = book.integer_ids
        if not ids or request_id > ids[-1]:
            ids.append(request_id)
        else:
            insort(ids, request_id)


def forget(session: Session, request_id: RequestId) -> None:
    book = session.requests
    if book is None or book.by_id.pop(request_id, None) is None:
        return
    if isinstance(request_id, int):
        del book.integer_ids[bisect_left(book.integer_ids, request_id)]


def is_settled(book: RequestBook, request_id: RequestId) -> bool:
    return isinstance(request_id, int) and request_id <= book.settled


def no_room(state: State, book: RequestBook) -> Refused | None:
    maximum = state.limits.request_ids_per_session_max
    if len(book.by_id) >= maximum:
        return too_many("request_ids_per_session_max", maximum, "remembered requests of a session")
    return None


def settle(state: State, session: Session, settled: int, out: Out) -> None:
    """Forget the outcomes of integer ids up to `settled`. One that still waits has been given up by its client: without this
    its grant would come to a name that nobody can ask for."""
    book = session.requests
    if book is None:
        book = session.requests = RequestBook()
    if settled <= book.settled:
        return
    book.settled = settled
    ids, by_id = book.integer_ids, book.by_id
    changed: dict[str, None] = {}
    count = bisect_right(ids, settled)
    for request_id in ids[:count]:
        waiter = by_id.pop(request_id).waiter
        if waiter is not None:
            dequeue(state, waiter)
            if session.implicit:  # it was this wait, and has no lease by which it could end
                del state.sessions[session.id]
            out.append((waiter.attachment, wait_ended("its client has settled this request id")))
            changed.update(dict.fromkeys(waiter.keys))
    del ids[:count]
    if changed:
        promote(state, changed, out)


def repeat(
    state: State, origin: Origin, operation: Acquire, session: Session, request: Request, out: Out
) -> None:
    """Answer an acquire whose name is known."""
    if request.fingerprint is not None and request.fingerprint != fingerprint_of(operation):
        out.append((origin, conflict("request_id", "this request id was used with another body")))
    elif request.waiter is not None:
        _attach(state, request.waiter, origin, operation.wait_ms, out)
    elif request.hold is not None:
        hold = request.hold
        if hold.ended is not None:
            out.append((origin, not_held(hold.ended)))
            return
        granted = Granted(
            hold.token,
            fence_of(state, hold),
            hold.keys,
            hold.terms.mode,
            session.id,
            remaining_of(state, session),
            request.previous,
            request.previous_horizon,
            request.checkpoints,
            hold.terms.limit,
        )
        out.append((origin, granted))
    elif request.refused is not None:
        out.append((origin, request.refused))


def _attach(state: State, waiter: Waiter, origin: Origin, wait_ms: int, out: Out) -> None:
    """The newest caller is the one that is told; the place in the queue stays."""
    out.append((waiter.attachment, Detached()))
    del state.attachments[waiter.attachment]
    waiter.attachment = origin
    state.attachments[origin] = waiter
    waiter.deadline_ms = max(waiter.deadline_ms, state.cluster_time_ms + wait_ms)
    out.append((origin, Queued(position_of(state, waiter))))
