"""The origin's half of the node: every operation that entered the cluster here, until its caller has an answer.

Rule: sequence numbers are given out when an operation is about to be forwarded, without gaps; from then on it is forwarded, after
each change of the leader again, until this node itself has applied it. Only what never got a number may be refused as
`no_leader`; whoever stops waiting for a numbered operation has an unknown outcome. What the node itself must see done gets its
number at once: it outlasts any time without a leader.

    admitted --leader known--> outstanding --applied--> answered
                                   |                       ^
                                   +--applied: Queued--> waiting

It does not know the network or the engine: the node moves what it says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .machine.operations import Acquire, Operation
from .machine.outcomes import Granted, Outcome, Queued
from .node_types import Unknown


class Submission:
    """One operation and the caller that waits for it: whoever submits says in a class of its own how that one is answered.

    `sequence` is 0 until it has been numbered. `abandoned`: nobody waits for it any more.
    """

    __slots__ = ("abandoned", "admitted_ns", "operation", "sequence", "was_answered")

    def __init__(self, operation: Operation, admitted_ns: int = 0) -> None:
        self.operation = operation
        self.admitted_ns = admitted_ns
        self.sequence = 0
        self.abandoned = False
        self.was_answered = False

    @property
    def is_answered(self) -> bool:
        """An answer would reach nobody: there was one, or the caller has gone."""
        return self.was_answered

    def answer(self, outcome: Outcome | Unknown) -> None:
        """Called once at the most. It has to be cheap, and must not raise."""
        raise NotImplementedError

    @property
    def taken(self) -> Outcome | Unknown | None:
        """The answer, if the caller has it or is about to."""
        return None

    @property
    def nameless_acquire(self) -> bool:
        """Nobody can ask again for what this acquires."""
        return isinstance(self.operation, Acquire) and self.operation.request_id is None


class Awaited(Submission):
    """Its caller awaits `future`."""

    __slots__ = ("future",)

    def __init__(self, operation: Operation, admitted_ns: int) -> None:
        super().__init__(operation, admitted_ns)
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome | Unknown] = loop.create_future()

    @property
    def is_answered(self) -> bool:
        return self.future.done()

    def answer(self, outcome: Outcome | Unknown) -> None:
        self.future.set_result(outcome)

    @property
    def taken(self) -> Outcome | Unknown | None:
        future = self.future
        return future.result() if future.done() and not future.cancelled() else None


@dataclass(slots=True)
class Orphan:
    """What is left in the cluster of a caller that has gone: the node has to give it back."""

    submission: Submission
    grant: Granted | None = None


@dataclass(slots=True)
class Submissions:
    """All submissions of this boot of this node. The three collections are disjoint."""

    admitted: deque[Submission] = field(default_factory=deque)
    outstanding: dict[int, Submission] = field(default_factory=dict)
    waiting: dict[int, Submission] = field(default_factory=dict)
    last_sequence: int = 0
    forwarded: int = 0

    @property
    def in_flight(self) -> int:
        """Admitted and not yet applied."""
        return len(self.admitted) + len(self.outstanding)

    @property
    def settled(self) -> int:
        """How many have been applied here so far."""
        return self.last_sequence - len(self.outstanding)

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest that a leader was sent, and that is not yet applied, was admitted."""
        oldest = next(iter(self.outstanding.values()), None)
        return None if oldest is None else oldest.admitted_ns

    def admit(self, submission: Submission) -> None:
        self.admitted.append(submission)

    def number_admitted(self) -> None:
        """A leader is known: everything admitted gets its number. Callers that have gone meanwhile leave no trace."""
        while self.admitted:
            submission = self.admitted.popleft()
            if submission.abandoned or submission.is_answered:
                continue
            self.number(submission)

    def number(self, submission: Submission) -> None:
        self.last_sequence += 1
        submission.sequence = self.last_sequence
        self.outstanding[self.last_sequence] = submission

    def forward_again(self) -> None:
        """Whatever is outstanding may be lost: the leader, the term, or the connection is another one."""
        self.forwarded = 0

    def to_forward(self, count_max: int) -> tuple[int, list[Operation]]:
        """The next run of outstanding operations that the present leader has not been sent: first sequence, operations."""
        if self.forwarded >= self.last_sequence or not self.outstanding:
            return 0, []
        oldest = next(iter(self.outstanding))
        first = max(self.forwarded + 1, oldest)
        last = min(self.last_sequence, first + count_max - 1)
        return first, [self.outstanding[sequence].operation for sequence in range(first, last + 1)]

    def settle(self, sequence: int, outcome: Outcome) -> Orphan | None:
        """This node has applied operation `sequence`, or ended the wait of it. Answers the caller; the answer says what a caller
        that has gone leaves behind."""
        submission = self.outstanding.pop(sequence, None)
        if isinstance(outcome, Queued):
            if submission is None:
                return None
            self.waiting[sequence] = submission
            return Orphan(submission) if submission.abandoned else None
        if submission is None:
            submission = self.waiting.pop(sequence, None)
        if submission is None:
            return None
        if not submission.is_answered:
            submission.answer(outcome)
            return None
        if isinstance(outcome, Granted) and submission.nameless_acquire:
            return Orphan(submission, outcome)
        return None

    def skip(
        self, last_sequence: int, is_waiting: Callable[[int], bool]
    ) -> tuple[list[Submission], list[Orphan]]:
        """This node took over the state of another one, which contains our operations up to `last_sequence`; their outcomes are
        not in it. What will therefore never be settled is removed and returned: those, and waits that have ended meanwhile. A
        wait that goes on there is settled like any other; if its caller has gone, it is among the orphans."""
        contained = [self.outstanding[each] for each in self.outstanding if each <= last_sequence]
        for submission in contained:
            self.waiting[submission.sequence] = self.outstanding.pop(submission.sequence)
        orphans = [
            Orphan(submission)
            for submission in contained
            if submission.abandoned and is_waiting(submission.sequence)
        ]
        ended = [sequence for sequence in self.waiting if not is_waiting(sequence)]
        return [self.waiting.pop(sequence) for sequence in ended], orphans

    def abandon(self, submission: Submission) -> Orphan | None:
        """The caller has gone. A waiter has to be withdrawn now; a grant that was decided but not taken has to be given back."""
        submission.abandoned = True
        outcome = submission.taken
        if outcome is not None:
            if isinstance(outcome, Granted) and submission.nameless_acquire:
                return Orphan(submission, outcome)
            return None
        return Orphan(submission) if submission.sequence in self.waiting else None
