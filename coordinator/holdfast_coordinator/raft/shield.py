"""The decisions of the shield: what pysyncobj may be told, and what it may say.

Rule: pure functions of their arguments. Dropping, delaying or splitting a message is always safe
in Raft, and so is passing on a strictly weaker one; everything decided here is of that kind.
The numbers D1 to D37 are those of the audit of pysyncobj 0.3.17 (docs/engine.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from holdfast_coordinator.raft.errors import EngineFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.raft.messages import Ack, Append


class Log(Protocol):
    """The part of the journal that is read here: entries are (command, index, term)."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> tuple[bytes, int, int]: ...


def last_index(log: Log) -> int:
    """Index of the last entry. A log is never empty: pysyncobj puts entry 1 into a new one."""
    return log[-1][1]


def term_at(log: Log, index: int) -> int:
    """Term of an entry that is in the log."""
    return log[index - log[0][1]][2]


@dataclass(frozen=True, slots=True)
class Gap:
    """The append does not connect: the leader should go on from `next_index`."""

    next_index: int


@dataclass(frozen=True, slots=True)
class Known:
    """Everything in the append is in the log already, which agrees with it up to `verified`."""

    verified: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """The entries that are new, after the last entry that agrees."""

    prev_index: int
    prev_term: int
    entries: Sequence[tuple[bytes, int, int]]
    verified: int


def normalise(append: Append, log: Log, commit_index: int) -> Gap | Known | Fresh:
    """Hold an AppendEntries against the own log (D2).

    pysyncobj cuts its log at `prev_index` whenever anything stands behind it. With two copies of
    one backlog on the way, the first batch of the second copy then removes entries which this node
    has acknowledged: time 0 the leader counts them and answers its clients; time 1 this node cuts;
    time 2 the leader dies; time 3 this node is elected without them. So only what is missing or in
    conflict goes on to pysyncobj.

    Raises `EngineFailure` where the append contradicts a committed entry: safety is gone already,
    and going on would hide it.
    """
    first, last = log[0][1], last_index(log)
    if append.prev_index > last:
        return Gap(last + 1)
    if append.prev_index >= first and term_at(log, append.prev_index) != append.prev_term:
        _must_not_be_committed(append.prev_index, commit_index)
        return Gap(_first_of_its_term(log, append.prev_index, commit_index))
    verified = append.prev_index + len(append.entries)
    prev_term = append.prev_term
    for offset, (term, _) in enumerate(append.entries):
        index = append.prev_index + 1 + offset
        if index < first:
            prev_term = term
            continue
        if index > last or term_at(log, index) != term:
            if index <= last:
                _must_not_be_committed(index, commit_index)
            fresh = [
                (command, append.prev_index + 1 + position, entry_term)
                for position, (entry_term, command) in enumerate(append.entries[offset:], offset)
            ]
            return Fresh(index - 1, prev_term, fresh, verified)
        prev_term = term
    return Known(verified)


def _must_not_be_committed(index: int, commit_index: int) -> None:
    if index <= commit_index:
        raise EngineFailure(
            f"the leader's log contradicts entry {index}, which is committed here (up to "
            f"{commit_index}); a disk has lost or changed data that a majority relied on"
        )


def _first_of_its_term(log: Log, index: int, commit_index: int) -> int:
    """Where the leader should try next: one term back, not one entry (D22). What is committed is
    known to agree, so never further back than that."""
    term = term_at(log, index)
    floor = max(commit_index + 1, log[0][1] + 1)
    while index > floor and term_at(log, index - 1) == term:
        index -= 1
    return max(index, floor)


def next_index_after_reset(ack: Ack, match_index: int, last: int) -> int:
    """Where a leader goes on after a reset: never below what the peer has acknowledged in this
    term, and never past the own end."""
    return min(max(ack.next_index, match_index + 1, 2), last + 1)


def up_to_date(log: Log, index: int, term: int) -> bool:
    """Whether a candidate's last entry is at least as recent as ours (Raft, section 5.4.1)."""
    return (term, index) >= (log[-1][2], log[-1][1])


class Voters:
    """Who voted in a term. pysyncobj counts votes, not voters (D17)."""

    def __init__(self) -> None:
        self._term = -1
        self._names: set[str] = set()

    def add(self, term: int, name: str) -> bool:
        """Whether this is the first vote of `name` in `term`."""
        if term != self._term:
            self._term, self._names = term, set()
        if name in self._names:
            return False
        self._names.add(name)
        return True

    def count(self, term: int) -> int:
        """How many voted in `term`."""
        return len(self._names) if term == self._term else 0
