"""The unmodified library where it meets the application: versions, methods, callbacks, members, its lock manager, its clock.

Ours runs the same schedule beside it, wherever it has the thing at all. The numbers are those of docs/engine.md.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

import pysyncobj.batteries
import pytest
from pysyncobj import replicated
from pysyncobj.monotonic import monotonic as the_librarys_clock
from raft_schedules import append, kernel, say, stock
from recording_host import RecordingHost
from stock_pysyncobj import Replica
from test_deviations import lead, lead_stock
from test_stock_elections import Three

from holdfast_coordinator.machine import Acquire, Entry, Granted, Machine, Origin, Refused
from holdfast_coordinator.raft.engine import boot_clock
from holdfast_coordinator.raft.inmem import MemoryJournal, VirtualClock
from holdfast_coordinator.raft.library import Peer
from holdfast_coordinator.raft.messages import MessageError, PreVote, Vote, check_command

TWO = ("n2", "n3")
REGULAR, NO_OP, MEMBERSHIP, VERSION = (bytes([kind]) for kind in range(4))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def put(item: str, method: int = 0) -> bytes:
    """A log entry as the library writes it: the number of a replicated method, and its arguments."""
    return REGULAR + pickle.dumps((method, (item,)))


def stock_entries(*commands: bytes) -> dict[str, Any]:
    """A leader's append of entries 2 and following, all of them committed."""
    entries = [(command, index, 1) for index, command in enumerate(commands, 2)]
    return {
        "type": "append_entries",
        "term": 1,
        "commit_index": entries[-1][1],
        "entries": entries,
        "prevLogIdx": 1,
        "prevLogTerm": 0,
    }


class TestD14CodeVersionsAndNumbersOfMethods:
    def test_stock_applies_later_entries_twice_when_it_does_not_know_a_version(
        self, clock: VirtualClock
    ) -> None:
        """The rest of its log is counted one entry too low from then on."""
        follower = stock("n1", TWO, clock=clock)
        version = VERSION + pickle.dumps(1)
        follower.receive("n2", stock_entries(put("first"), version, put("second"), put("third")))
        follower.tick()
        follower.tick()
        assert follower.applied == ["first", "second", "third", "third"]

    def test_stock_calls_another_method_once_one_was_added(self, clock: VirtualClock) -> None:
        """time 0: "put" is the only method and has number 0; time 1: the next release has "pop" as well; time 2: it replays."""

        class NextRelease(Replica):
            @replicated
            def pop(self, item: Any) -> None:
                self.applied.append(f"{item} was taken away")

        journal = MemoryJournal()
        for each in (NO_OP, 1, 0), (put("credit"), 2, 1):
            journal.add(*each)
        journal.setRaftCommitIndex(2)
        before = stock("n1", TWO, clock=clock, journal=journal)
        before.tick()
        assert before.applied == ["credit"]
        after = stock("n1", TWO, clock=clock, journal=journal, replica=NextRelease)
        after.tick()
        assert after.applied == ["credit was taken away"]

    def test_ours_has_neither_versions_nor_numbers(self, clock: VirtualClock) -> None:
        """Both kinds of entries are refused before they are in the log, and the host's bytes come as they were written, once."""
        for command in (VERSION + pickle.dumps(1), put("first")):
            with pytest.raises(MessageError):
                check_command(command, entry_bytes_max=1000)
        host = RecordingHost()
        follower = kernel("n1", TWO, clock=clock, host=host)
        follower.receive("n2", append(1, 4, commit=4))
        for _ in range(3):
            follower.tick()
            say(follower)
        assert host.payloads == [b"%d in term 1" % index for index in (2, 3, 4)]


class TestD21CallbacksThatAreNeverCalled:
    def test_stock_never_answers_what_was_lost_with_a_connection(self) -> None:
        """time 0: a follower forwards a command; time 1: the connection breaks and comes back, to the same leader. Nobody asks
        again, and nobody tells the caller."""
        three = Three()
        leader = three.elect()
        follower = next(name for name in three.cluster.names if name != leader)
        outcomes: list[Any] = []
        three.node(follower).put("lost", lambda _result, error: outcomes.append(error))
        three.cluster.hold(follower, leader)
        three.cluster.round(follower)
        assert any(
            message["type"] == "apply_command"
            for message in three.cluster.on_the_way(follower, leader)
        )
        three.cluster.cut(leader, follower)
        three.cluster.let_go(follower, leader)
        three.cluster.heal(leader, follower)
        three.cluster.run_for(60)
        assert three.leaders() == [leader]
        assert outcomes == []
        assert "lost" not in three.node(leader).applied

    def test_stock_executes_what_its_caller_has_given_up(self, clock: VirtualClock) -> None:
        """time 0: there is no leader; time 1: the caller gives up; an hour later there is one, and it is done."""
        node = stock("n1", TWO, clock=clock, commandsWaitLeader=True)
        outcomes: list[Any] = []
        node.put("too late", lambda _result, error: outcomes.append(error))
        node.tick()
        clock.now += 3600
        assert outcomes == []
        lead_stock(node, clock, "n2")
        node.tick()
        assert b"too late" in node.log[-1][0]


def joined(name: str) -> bytes:
    """The library's entry for a new member."""
    return MEMBERSHIP + pickle.dumps(["add", name, Peer(name, int(name[1:]))])


class TestD28ThreeListsOfMembers:
    def test_stock_is_elected_by_two_of_five_after_a_restart(self, clock: VirtualClock) -> None:
        """time 0: n4 and n5 have joined through the log, five nodes have committed it; time 1: n1 is killed within the second in
        which the library stores its commit index, and starts with the three members of its constructor; time 2: one vote of
        another makes it the leader, while n3, n4 and n5 are a majority of five."""
        journal = MemoryJournal()
        before = stock("n1", TWO, clock=clock, journal=journal, dynamicMembershipChange=True)
        before.receive("n2", stock_entries(joined("n4"), joined("n5")))
        before.tick()
        assert {node.id for node in before.raft.otherNodes} == {"n2", "n3", "n4", "n5"}
        journal.setRaftCommitIndex(1)  # what stock finds (D33)
        after = stock("n1", TWO, clock=clock, journal=journal, dynamicMembershipChange=True)
        assert [entry[0] for entry in journal[1:]] == [joined("n4"), joined("n5")]
        lead_stock(after, clock, "n2")
        assert after.is_leader

    def test_stock_counts_a_member_that_has_nothing(self, clock: VirtualClock) -> None:
        """A new member votes for whoever asks first, before it has a single entry."""
        new = stock("n4", ("n1", "n2", "n3"), clock=clock, dynamicMembershipChange=True)
        vote = {"type": "request_vote", "term": 9, "last_log_index": 1, "last_log_term": 0}
        new.receive("n1", vote)
        assert [message["type"] for _, message in new.take()] == ["response_vote"]

    def test_ours_has_the_members_of_its_configuration_whatever_is_in_a_log(
        self, clock: VirtualClock
    ) -> None:
        with pytest.raises(MessageError):
            check_command(joined("n4"), entry_bytes_max=1000)
        node = kernel("n1", TWO, clock=clock)
        assert not node._raft.conf.dynamicMembershipChange
        lead(node, clock, "n2")
        assert node.is_leader
        assert set(node.match_index) == {"n2", "n3"}


class TestD29TheLibrarysLockManager:
    """Applied directly: this is what every replica does with such an entry."""

    def test_stock_gives_a_lock_away_that_is_held(self) -> None:
        """B's clock is 20 s fast. A has asked a second ago and holds the lock for another 9 s by every honest clock."""
        locks = pysyncobj.batteries._ReplLockManagerImpl(10.0)
        assert locks.acquire("k", "A", 1000.0, _doApply=True)
        assert locks.acquire("k", "B", 1001.0 + 20.0, _doApply=True)

    def test_stock_deletes_the_locks_of_others_when_one_prolongs_its_own(self) -> None:
        locks = pysyncobj.batteries._ReplLockManagerImpl(10.0)
        assert locks.acquire("k", "A", 1000.0, _doApply=True)
        assert locks.acquire("other", "B", 1001.0 + 20.0, _doApply=True)
        assert locks.isAcquired("k", "A", 1002.0)
        locks.prolongate("B", 1002.0 + 20.0, _doApply=True)
        assert not locks.isAcquired("k", "A", 1002.0)

    def test_ours_knows_no_clock_of_a_client(self) -> None:
        """Whoever asks, the lock is held until cluster time says that it is not; and the next holder has a higher token."""
        machine = Machine()

        def ask(session: str, sequence: int, elapsed_ms: int) -> Any:
            origin = Origin("n1", 1, sequence)
            entry = Entry(1, elapsed_ms, ((origin, Acquire(("k",), session, ttl_ms=10_000)),))
            return dict(machine.apply(entry))[origin]

        first = ask("a" * 32, 1, 0)
        assert isinstance(first, Granted)
        for sequence in range(2, 21):
            assert isinstance(ask("b" * 32, sequence, 500), Refused)
        second = ask("b" * 32, 21, 500)
        assert isinstance(second, Granted)
        assert second.token > first.token


class SuspendedMachine:
    """The kernel's clocks of a machine that was suspended: one of them runs on."""

    def __init__(self) -> None:
        self.clocks = {
            time.CLOCK_MONOTONIC: 1000.0,
            time.CLOCK_MONOTONIC_RAW: 1000.0,
            time.CLOCK_BOOTTIME: 1000.0,
        }

    def __call__(self, clock: int) -> float:
        return self.clocks[clock]

    def awake(self, seconds: float) -> None:
        for clock in self.clocks:
            self.clocks[clock] += seconds

    def suspended(self, seconds: float) -> None:
        self.clocks[time.CLOCK_BOOTTIME] += seconds


class TestD30TheClockInSuspend:
    """time 0: a leader has just heard of both followers; time 1: its machine is suspended for an hour; time 2: it goes on."""

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> SuspendedMachine:
        machine = SuspendedMachine()
        monkeypatch.setattr(time, "clock_gettime", machine)
        return machine

    def test_stock_believes_that_no_time_has_passed(self, machine: SuspendedMachine) -> None:
        """An hour later it is still the leader, in the term of then."""
        leader = stock("n1", TWO, clock=the_librarys_clock)
        machine.awake(1)
        leader.tick()
        leader.receive("n2", {"type": "response_vote", "term": leader.term})
        assert leader.is_leader
        machine.suspended(3600)
        leader.tick()
        assert leader.is_leader
        assert leader.raft.hasQuorum

    def test_ours_steps_down_at_once(self, machine: SuspendedMachine) -> None:
        leader = kernel("n1", TWO, clock=boot_clock)
        machine.awake(1)
        leader.tick()
        leader.receive("n2", PreVote(leader.term + 1))
        leader.tick()
        say(leader)
        leader.receive("n2", Vote(leader.term))
        assert leader.is_leader
        machine.suspended(3600)
        leader.tick()
        assert not leader.is_leader
