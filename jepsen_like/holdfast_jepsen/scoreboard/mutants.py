"""Mutants: the product with one cure, or one guarantee, taken away. The harness has to find every one.

Rule: a mutant changes a single decision, from outside, for the time of a run, and gives it back. D numbers are those
of the audit of pysyncobj (docs/engine.md), G numbers the guarantees of ARCHITECTURE.md.
"""

from __future__ import annotations

import contextlib
import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from holdfast import requests as library_requests
from holdfast.errors import Unreachable
from holdfast.session import Session
from holdfast_coordinator.machine import holder_rules, origins, rules, table
from holdfast_coordinator.machine.machine import Machine
from holdfast_coordinator.machine.state import Closure, Phase
from holdfast_coordinator.machine.trail import Trail
from holdfast_coordinator.peer_levels import PeerLevels
from holdfast_coordinator.raft import recovery, segments, shield
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel
from holdfast_coordinator.raft.memory_disk import MemoryFile
from holdfast_coordinator.raft.peers import PeerBook, Verdict
from holdfast_jepsen.sim.client import SimClient, SimTransport
from holdfast_jepsen.sim.run import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Mutant:
    """`weakens`: the deviation or guarantee. `story`: what is wrong with it. What seeds do not show: see `by_test`."""

    name: str
    weakens: str
    story: str
    variant: Callable[[], Variant]


@contextlib.contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _patch(owner: Any, name: str, value: Any, **more: Any) -> Callable[[], Variant]:
    return lambda: Variant(around=lambda: _patched(owner, name, value), **more)


def _kernel(kernel_class: type[Kernel], **more: Any) -> Callable[[], Variant]:
    return lambda: Variant(settings=lambda s: replace(s, kernel_class=kernel_class), **more)


def _client(client_class: type[SimClient], **more: Any) -> Callable[[], Variant]:
    return lambda: Variant(client_class=client_class, **more)


# The engine.

_normalise = shield.normalise


def _truncating(append: Any, log: Any, commit_index: int) -> Any:
    plan = _normalise(append, log, commit_index)
    if isinstance(plan, shield.Gap) or append.prev_index < log[0][1] or not append.entries:
        return plan
    entries = [
        (command, append.prev_index + 1 + place, term)
        for place, (term, command) in enumerate(append.entries)
    ]
    return shield.Fresh(append.prev_index, append.prev_term, entries, plan.verified)


class AnswersBeforeSync(Kernel):
    """Promises leave, and then the journal is synced."""

    def release(self, deliver: Callable[[str, Sequence[Any]], None]) -> None:
        answers, self._answers = self._answers, []
        self._deliver(answers, deliver)
        super().release(deliver)


_open_journal = Journal._open


def _forgetting_votes(journal: Journal) -> None:
    _open_journal(journal)
    journal._vote = None


_replay_segment = Journal._replay_segment


def _trusting_the_cache(journal: Journal, number: int, replay: Any, *, is_last: bool) -> None:
    _replay_segment(journal, number, replay, is_last=is_last)
    journal._last_group = (segments.GROUPS_OFFSET, b"")


def _clearing(journal: Any, store: Any) -> Any:
    """As the library: a journal that was not cut to its snapshot yet is not believed."""
    restored = _recover(journal, store)
    if restored is not None and journal[0][1] != restored.info.index:
        recovery.reset(journal, restored.info)
    return restored


_recover = recovery.recover


class ElectsNobodyLater(Kernel):
    """After some terms nobody stands any more."""

    def election_timeout(self) -> float:
        is_late = (
            hasattr(self, "_raft") and self.term >= 3
        )  # the library asks once while it is made
        return 1e9 if is_late else super().election_timeout()


@contextlib.contextmanager
def _trusting() -> Iterator[None]:
    """Whoever comes under a name is taken for it."""
    with contextlib.ExitStack() as stack:
        for name, value in (
            ("judge", lambda *_: Verdict()),
            ("may_vote", lambda *_: True),
            ("counts", lambda *_: True),
        ):
            stack.enter_context(_patched(PeerBook, name, value))
        yield


# The machine.


_link_waiter = table.link_waiter


def _jumps_the_queue(state: Any, session: Any, waiter: Any) -> None:
    _link_waiter(state, session, waiter)
    for key in waiter.keys:
        state.queues[key].move_to_end(waiter.number, last=False)


_advance_time = Machine._advance_time


def _fast_time(machine: Machine, entry: Any) -> None:
    _advance_time(machine, msgspec.structs.replace(entry, elapsed_ms=entry.elapsed_ms * 5 // 4))


def _takes_away(state: Any, keys: Any, terms: Any) -> bool:
    if _is_open(state, keys, terms):
        return True
    if state.cluster_time_ms % 4 or any(key in state.queues for key in keys):
        return False
    for hold in {hold.token: hold for key in keys for hold in table.holds_on(state, key)}.values():
        table.end_hold(state, state.sessions[hold.session], hold, "expired")
    return _is_open(state, keys, terms)


def _last_of_each(state: Any, keys: Any, heads: list[int]) -> None:
    heads += (next(reversed(state.queues[key])) for key in keys if key in state.queues)
    heapq.heapify(heads)


def _is_last_of_each(state: Any, waiter: Any) -> bool:
    return all(
        next(reversed(state.queues[key])) == waiter.number
        and (key not in state.standing or _is_joinable(state.standing[key], waiter.terms))
        for key in waiter.keys
    )


@contextlib.contextmanager
def _serves_the_latest() -> Iterator[None]:
    with (
        _patched(table, "_push_heads", _last_of_each),
        _patched(table, "_is_grantable", _is_last_of_each),
    ):
        yield


def _as_new(state: Any, origin: Any, operation: Any, session: Any, request: Any, out: Any) -> None:
    if request.hold is None:
        _repeat(state, origin, operation, session, request, out)
        return
    refusal = _decide(state, origin, operation, session, out)
    if refusal is not None:
        out.append((origin, refusal))


_repeat: Callable[..., Any] = getattr(rules, "repeat")  # noqa: B009 - as `_patched` does
_decide: Callable[..., Any] = getattr(rules, "_decide")  # noqa: B009 - as `_patched` does
_is_open: Callable[[Any, Any, Any], bool] = getattr(rules, "is_open")  # noqa: B009 - as `_patched` does


_is_joinable = table.is_joinable


def _one_more(stands: Any, terms: Any) -> bool:
    limit = terms.limit
    return _is_joinable(stands, terms) or (
        limit is not None and isinstance(stands, Phase) and len(stands.holds) == limit
    )


def _newest_fence(_state: Any, hold: Any) -> Any:
    return hold.token


def _short_closure(
    key: str, by: Any, token: int, ended: Any, deadline_ms: int, result: str
) -> Closure:
    return Closure(key, by, token, ended, deadline_ms - 900, result)


_append = Trail.append


def _forgetful(trail: Trail, record: Any, keys: int) -> None:
    if record[3] % 7:  # its token
        _append(trail, record, keys)


def _looks_at_one_key(state: Any, keys: Any, terms: Any) -> bool:
    return _is_open(state, keys[:1], terms)


# The client.


class ReceiptIsSending(SimTransport):
    """What the library takes for the time at which it asked is that at which it was answered."""

    def sent(self, sent_at: float) -> float:
        del sent_at
        return self._clock.now()


class DeadlineFromReceipt(SimClient):
    """The lease counts from when the answer arrived."""

    transport_class = ReceiptIsSending


def _renewed_in_hope(session: Session, told: str) -> None:
    """A renewal that was sent is taken for one that was made."""
    _renewal_failed(session, told)
    session.lease.seen(session._clock.now(), session.lease.ttl)


_renewal_failed = Session._renewal_failed


def _never_acted(tries: Any) -> NoReturn:
    """What got no answer took no effect, it says."""
    raise Unreachable(tries.last)


class ClockStopsInSuspend(SimClient):
    """Its clock does not run while its machine sleeps, and it believes that no time has passed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        pause = self.actor.pause

        def suspend(duration: int) -> None:
            pause(duration)
            self._clock_base -= int(duration * self.rate)

        self.actor.pause = suspend  # type: ignore[method-assign]


REORDERING = ("duplicates", "supersede", "slow-links", "one-way", "isolate", "kill-leader")
LATE = ("one-way", "isolate-leader", "slow-links", "pause-leader")
DEPOSED = ("kill-leader", "isolate-leader", "pause-leader", "hand-over", "reset")
ELECTIONS = ("kill", "kill-leader", "crash-at-step", "duplicates", "slow-links", "isolate-leader")
POWER = ("power", "power-all", "crash-at-step")
STALLS = ("pause-client", "slow-client", "cut-client", "crash-client")

MUTANTS = (
    Mutant("truncation", "D2", "an append cuts away what stands behind it",
           _patch(shield, "normalise", _truncating, kinds=REORDERING)),
    Mutant("journal-cleared", "D1", "a journal that is longer than its snapshot is cleared at a start",
           lambda: Variant(settings=lambda s: replace(s, compact_after=50), around=lambda: _patched(
               recovery, "recover", _clearing), kinds=("kill", "kill-at-point", "crash-at-step"), workload="hot-key")),
    Mutant("suspended-clock", "D30", "a client's clock stops while its machine sleeps",
           _client(ClockStopsInSuspend, kinds=("pause-client",), workload="short-leases")),
    Mutant("lost-disk-votes", "D37", "a node on an empty disk votes and is counted",
           lambda: Variant(around=_trusting, kinds=("wipe", "kill-leader", "isolate-leader"))),
    Mutant("answers-before-sync", "D5", "promises leave before the disk has them", _kernel(AnswersBeforeSync)),
    Mutant("sync-does-nothing", "D5, G7", "no file's sync reaches a disk",
           _patch(MemoryFile, "sync", lambda file: None, kinds=POWER)),
    Mutant("trusts-the-cache", "D5", "a start takes for written what a sync that failed left in the page cache",
           _patch(Journal, "_replay_segment", _trusting_the_cache, kinds=("sync-error", *POWER))),
    Mutant("votes-forgotten", "D6", "a restart forgets for whom it voted",
           _patch(Journal, "_open", _forgetting_votes, size=5, kinds=ELECTIONS)),
    Mutant("votes-counted", "D17", "votes are counted, not voters",
           lambda: Variant(size=5, kinds=ELECTIONS, around=lambda: _patched(shield.Voters, "add", _count_votes))),
    Mutant("grants-twice", "G1", "a held key is sometimes taken away",
           _patch(rules, "is_open", _takes_away)),
    Mutant("one-permit-too-many", "G1", "a semaphore grants one more than its limit",
           _patch(table, "is_joinable", _one_more, workload="semaphore")),
    Mutant("newest-fence", "G2", "a reader's fence is its own token",
           _patch(table, "fence_of", _newest_fence, workload="readers")),
    Mutant("half-granted", "G11", "of several keys only the first is looked at",
           _patch(rules, "is_open", _looks_at_one_key, workload="several-keys")),
    Mutant("done-too-short", "done", "a result is forgotten 0.9 s early",
           _patch(holder_rules, "Closure", _short_closure, workload="done")),
    Mutant("forgetful-trail", "watch", "some of what happens is told to nobody",
           _patch(Trail, "append", _forgetful)),
    Mutant("queue-jumped", "G5", "a new waiter stands before all others",
           _patch(table, "link_waiter", _jumps_the_queue, workload="queue")),
    Mutant("latest-first", "G5", "who came last is granted first",
           lambda: Variant(around=_serves_the_latest, workload="queue")),
    Mutant("level-too-soon", "upgrade", "the format level rises though a node of an older version lives",
           _patch(PeerLevels, "common", lambda self, connected: self.own.highest, kinds=("upgrade", "kill"))),
    Mutant("nobody-stands", "G8", "after three terms nobody stands for election",
           _kernel(ElectsNobodyLater, kinds=("kill-leader", "isolate-leader"))),
    Mutant("unknown-is-refused", "G9", "a client takes an answer that did not come for a refusal",
           _patch(library_requests, "_give_up", _never_acted,
                  kinds=("isolate-leader", "cut-client", "slow-client", "kill-leader"))),
    Mutant("fast-time", "G4", "the cluster's time runs a quarter too fast", _patch(Machine, "_advance_time", _fast_time)),
    Mutant("forgets-requests", "G6", "a repeat of what was granted is taken for a new request",
           _patch(rules, "repeat", _as_new)),
    Mutant("repeats-origins", "G6", "what a node sends twice is done twice",
           _patch(origins.OriginBook, "admit", lambda book, origin: True,
                  kinds=DEPOSED, workload="implicit")),
    Mutant("boots-again", "D15", "a node on a replaced disk counts its boots from 1 again",
           _patch(PeerBook, "boot", lambda book, opened: opened, kinds=("truncate", "kill-leader"))),
    Mutant("deadline-from-receipt", "G3", "a client's lease counts from the answer",
           _client(DeadlineFromReceipt, kinds=STALLS)),
    Mutant("hopeful-renewals", "G3", "a client trusts a renewal nobody answered",
           _patch(Session, "_renewal_failed", _renewed_in_hope, kinds=STALLS)),
)  # fmt: skip


def _count_votes(voters: shield.Voters, term: int, name: str) -> bool:
    if term != voters._term:
        voters._term, voters._names = term, set()
    voters._names.add(f"{name}/{len(voters._names)}")
    return True


BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
