"""Who leads, how soon, and how one leader follows another. Virtual time; the numbers are the default timing's."""

from __future__ import annotations

import pytest
from raft_schedules import Shielded, append, kernel, say

from holdfast_coordinator.raft.inmem import VirtualClock
from holdfast_coordinator.raft.messages import Append, TimeoutNow, VoteRequest

LATENCY = 0.001


def others(cluster: Shielded, leader: str) -> list[str]:
    return [name for name in cluster.names if name != leader]


def seconds_until_a_leader(cluster: Shielded, *, besides: str) -> float:
    """Virtual seconds until another one has committed in its own term."""
    began = cluster.clock.now
    cluster.cluster.run_until(lambda: cluster.leader() not in (None, besides), within=10)
    return cluster.clock.now - began


class TestAClosedConnectionIsAReasonToStand:
    """A process that dies closes its sockets; one that freezes does not."""

    @pytest.mark.parametrize("seed", range(40))
    def test_a_dead_leader_is_followed_within_the_shortest_election_time(self, seed: int) -> None:
        """Also when the two others stand in the same moment, and split the votes."""
        three = Shielded(seed=seed)
        leader = three.elect()
        three.cluster.run_for(0.3)
        three.crash(leader)
        assert seconds_until_a_leader(three, besides=leader) < 0.4

    def test_most_of_the_time_it_is_a_tenth_of_a_second(self) -> None:
        """The median of the same twenty."""
        times = []
        for seed in range(20):
            three = Shielded(seed=seed)
            leader = three.elect()
            three.cluster.run_for(0.3)
            three.crash(leader)
            times.append(seconds_until_a_leader(three, besides=leader))
        assert sorted(times)[10] < 0.15

    def test_a_leader_that_lives_is_not_deposed_by_who_lost_the_connection(self) -> None:
        """The third node still hears it, and grants no pre-vote."""
        three = Shielded()
        leader = three.elect()
        term = three.kernel(leader).term
        one, _ = others(three, leader)
        for _ in range(20):
            three.cluster.cut(leader, one)
            three.cluster.run_for(0.2)
            three.cluster.heal(leader, one)
            three.cluster.run_for(0.05)
        assert three.leader() == leader
        assert {three.kernel(name).term for name in three.names} == {term}

    def test_a_frozen_leader_is_followed_within_an_election_time(self) -> None:
        """Nothing closes; the heartbeats stay away."""
        three = Shielded()
        leader = three.elect()
        three.cluster.run_for(0.3)
        for other in others(three, leader):
            three.cluster.hold(leader, other)
            three.cluster.hold(other, leader)
        assert seconds_until_a_leader(three, besides=leader) < 0.95


class TestD20ALeaderWithoutAMajority:
    """It is one no longer within about an election time, and answers nothing meanwhile."""

    def test_it_steps_down(self) -> None:
        """After the longest election time, whatever old answers lie in its buffers."""
        three = Shielded()
        leader = three.elect()
        three.cluster.isolate(leader)
        three.cluster.run_for(0.91)
        assert not three.kernel(leader).is_leader

    def test_while_two_believe_to_lead_only_one_can_answer_a_linearizable_read(self) -> None:
        """A read is an entry: the old leader cannot commit it, so its caller is never answered from the old
        state. time 0: the leader is cut off; time 1: the others have another one, which commits W; time 2:
        the old leader, which still believes to lead, is asked for a read."""
        three = Shielded(election_s=(0.4, 5.0))  # it goes on believing for 5 s
        old = three.elect()
        three.cluster.run_for(0.3)
        three.cluster.isolate(old)
        three.cluster.run_until(lambda: three.leader() not in (None, old), within=10)
        new = three.leader()
        assert new is not None
        assert three.kernel(old).is_leader
        assert three.kernel(new).is_leader
        three.propose(new, b"W")
        three.propose(old, b"read")
        three.cluster.run_for(0.5)
        assert three.hosts[new].payloads == [b"W"]
        assert three.hosts[old].payloads == []
        three.cluster.heal_all()
        three.cluster.run_for(3)
        assert three.hosts[old].payloads == [b"W"]


class TestD19ACutOffNodeReturns:
    """It has heard nothing for a minute."""

    def test_it_does_not_depose_the_leader(self) -> None:
        """Its term has not risen, because nobody granted it a pre-vote."""
        five = Shielded(5)
        leader = five.elect()
        lonely = others(five, leader)[0]
        term = five.kernel(leader).term
        five.cluster.isolate(lonely)
        five.cluster.run_for(60)
        five.cluster.heal_all()
        five.cluster.run_for(2)
        assert five.leader() == leader
        assert {five.kernel(name).term for name in five.names} == {term}


class TestD22Backtracking:
    """A follower whose log departs from the leader's, or ends far before it."""

    def _append_requests(self, three: Shielded, peer: str, leader: str) -> list[Append]:
        return [m for m in three.cluster.on_the_way(leader, peer) if isinstance(m, Append)]

    def test_two_hundred_divergent_entries_cost_a_few_round_trips(self) -> None:
        """The old leader wrote them alone, cut off; it follows within two heartbeats."""
        three = Shielded()
        old = three.elect()
        three.cluster.run_for(0.3)
        three.cluster.isolate(old)
        for number in range(200):
            three.propose(old, b"lost %d" % number)
        assert three.kernel(old).last_index > 200
        three.cluster.run_until(lambda: three.leader() not in (None, old), within=5)
        new = three.leader()
        assert new is not None
        for number in range(300):
            three.propose(new, b"kept %d" % number)
        three.cluster.run_for(1)
        three.cluster.heal_all()
        began = three.clock.now
        three.cluster.run_until(
            lambda: three.hosts[old].payloads == three.hosts[new].payloads, within=1
        )
        assert three.clock.now - began < 0.25

    def test_a_hundred_thousand_entries_behind(self) -> None:
        """In batches as large as a frame, not one by one."""
        three = Shielded(max_uncommitted_entries=5000)
        leader = three.elect()
        late = others(three, leader)[0]
        three.crash(late)
        for _ in range(20):
            three.hosts[leader].queue.extend([b"x"] * 5000)
            three.cluster.round(leader)
            three.cluster.run_for(0.2)
        assert three.kernel(leader).commit_index > 100_000
        three.cluster.start(late)
        began = three.clock.now
        three.cluster.run_until(lambda: len(three.hosts[late].applied) == 100_000, within=3)
        assert three.clock.now - began < 1


class TestD36HandingOver:
    """The leader stops proposing, waits until one peer has everything, and asks it to stand."""

    def test_it_takes_a_few_round_trips(self) -> None:
        """Neither stickiness nor a pre-vote stands in the way, and no heartbeat delays it."""
        three = Shielded()
        leader = three.elect()
        three.cluster.run_for(0.3)
        assert three.kernel(leader).hand_over()
        assert seconds_until_a_leader(three, besides=leader) < 12 * LATENCY

    def test_under_load_nothing_is_lost_and_what_waits_goes_on_afterwards(self) -> None:
        """What was proposed is committed by the new leader; what was not stays with the host."""
        three = Shielded()
        leader = three.elect()
        three.cluster.run_for(0.3)
        for number in range(50):
            three.propose(leader, b"%d" % number)
        three.kernel(leader).hand_over()
        three.propose(leader, b"later")
        seconds_until_a_leader(three, besides=leader)
        three.cluster.run_for(0.5)
        assert list(three.hosts[leader].queue) == [b"later"]
        for name in three.names:
            assert three.hosts[name].payloads == [b"%d" % number for number in range(50)]

    def test_a_successor_that_lags_is_waited_for(self) -> None:
        """It is asked only once it has the whole log; without it the vote would be refused."""
        three = Shielded()
        leader = three.elect()
        three.cluster.run_for(0.3)
        for other in others(three, leader):
            three.cluster.hold(leader, other)
        three.propose(leader, b"x")
        three.kernel(leader).hand_over()
        three.cluster.run_for(0.05)
        sent = [three.cluster.on_the_way(leader, other) for other in others(three, leader)]
        assert not any(isinstance(m, TimeoutNow) for messages in sent for m in messages)
        for other in others(three, leader):
            three.cluster.let_go(leader, other)
        assert seconds_until_a_leader(three, besides=leader) < 0.3

    def test_a_leader_that_cannot_hand_over_goes_on_after_a_second(self) -> None:
        """The successors answer nothing that would make one of them leader, but acknowledge."""
        three = Shielded()
        leader = three.elect()
        three.cluster.run_for(0.3)
        node = three.kernel(leader)
        for other in others(three, leader):
            three.kernel(other)._on_timeout_now = lambda peer, message: None  # type: ignore[method-assign]
        node.hand_over()
        three.propose(leader, b"x")
        three.cluster.run_for(0.9)
        assert node.is_handing_over
        three.cluster.run_for(0.5)
        assert not node.is_handing_over
        assert three.leader() == leader
        assert three.hosts[leader].payloads == [b"x"]

    def test_only_the_leader_may_call(self) -> None:
        """And only in its own term."""
        clock = VirtualClock()
        follower = kernel("n1", ("n2", "n3"), clock=clock)
        follower.receive("n2", append(1, 2))
        say(follower)
        follower.receive("n3", TimeoutNow(1))
        follower.receive("n2", TimeoutNow(0))
        follower.tick()
        assert follower.term == 1
        follower.receive("n2", TimeoutNow(1))
        follower.tick()
        assert [m for _, m in say(follower)] == [VoteRequest(2, 2, 1, hand_over=True)] * 2

    def test_nobody_to_hand_over_to(self) -> None:
        """Said at once."""
        three = Shielded()
        leader = three.elect()
        for other in others(three, leader):
            three.crash(other)
        assert not three.kernel(leader).hand_over()
