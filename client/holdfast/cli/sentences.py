"""What the command says about locks and records, in words. Pure: values in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import holdfast


def who(owner: str | None, session_ref: str | None, context: str | None = None) -> str:
    """Somebody, as well as others may know it."""
    session = f"session {session_ref or 'unknown'}"
    where = session if context is None else f"{session}, {context}"
    return f"{owner} ({where})" if owner else where


def how(mode: str, limit: int | None) -> str:
    """How many may hold it."""
    if limit is not None:
        return f"as one of {limit} "
    return "" if mode == "exclusive" else f"{mode} "


def lock_lines(lock: holdfast.LockInfo) -> Iterator[str]:
    """One key: its holders, its queue, and what is remembered of it."""
    if lock.closed is not None:
        yield f"{lock.key}: {closed_line(lock.closed)}"
    elif not lock.holders:
        yield f"{lock.key}: nobody holds it"
    for holder in lock.holders:
        name = who(holder.owner, holder.session_ref, holder.context)
        left = f"for another {holder.remaining:.1f} s unless renewed"
        kind = how(holder.mode, holder.limit)
        yield f"{lock.key}: held {kind}with token {holder.token} by {name}, {left}"
    for place, waiter in enumerate(lock.waiters, start=1):
        also = [other for other in waiter.keys if other != lock.key]
        together = f", together with {', '.join(also)}" if also else ""
        name = who(waiter.owner, waiter.session_ref, waiter.context)
        kind = how(waiter.mode, waiter.limit)
        yield f"  {place}. waits: {kind}{name}, for another {waiter.remaining_wait:.1f} s{together}"
    more = lock.queue_length - len(lock.waiters)
    if more > 0:
        yield f"  and {more} more"
    if lock.checkpoint is not None:
        yield f"  checkpoint of token {lock.checkpoint.token}: {lock.checkpoint.value}"
    if lock.previous is not None:
        yield f"  before: {previous_line(lock.previous)}"


def closed_line(closed: holdfast.Closure) -> str:
    """Why nobody gets it."""
    left = "" if closed.remaining is None else f" for another {closed.remaining:.1f} s"
    if closed.by == "done":
        return f"done (token {closed.token}), remembered{left}: {closed.result}"
    if closed.by == "in_doubt":
        return f"in doubt: its last hold (token {closed.token}) {closed.ended}; nobody gets it before it is resolved"
    return f"closed{left}: its last hold (token {closed.token}) {closed.ended}"


def previous_line(previous: holdfast.Previous) -> str:
    """How the last hold ended."""
    floor = "" if previous.floor is None else f", floor {previous.floor}"
    resolved = ", resolved" if previous.resolved else ""
    return f"token {previous.token}, {previous.ended}{floor}{resolved}"


def record_line(record: holdfast.Record) -> str:
    """One thing that happened. The time is the leader's, for people."""
    words = [record.at.isoformat(timespec="milliseconds"), record.kind, f"token {record.token}"]
    words.append(", ".join(record.keys))
    if record.owner is not None:
        words.append(f"by {record.owner}")
    if record.kind == "granted":
        kind = how(record.mode or "exclusive", record.limit).strip()
        words += [kind] if kind else []
        words.append(f"after {record.waited or 0.0:.3f} s")
    if record.ended is not None:
        words.append(record.ended)
    if record.held is not None:
        words.append(f"after {record.held:.3f} s")
    if record.operator is not None:
        words.append(f"operator {record.operator}: {record.reason}")
    return "  ".join(words)
