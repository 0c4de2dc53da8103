"""Whole clusters in virtual time: elections, partitions, crashes. Deterministic, no sleeping."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from raft_schedules import Shielded
from stock_pysyncobj import StockNode

from holdfast_coordinator.raft.inmem import Cluster, MemoryJournal, VirtualClock
from holdfast_coordinator.raft.messages import Append, VoteRequest


def test_three_nodes_elect_a_leader_and_apply_the_same() -> None:
    """Every node applies every proposal, in one order."""
    three = Shielded()
    leader = three.elect()
    for number in range(50):
        three.propose(leader, b"%d" % number)
    three.cluster.run_for(1)
    assert [three.hosts[n].payloads for n in three.names] == [[b"%d" % i for i in range(50)]] * 3
    assert len({tuple(three.hosts[n].applied) for n in three.names}) == 1


def test_the_same_seed_gives_the_same_run() -> None:
    """Determinism itself, down to every index and term."""

    def run() -> list[Any]:
        three = Shielded(seed=7)
        leader = three.elect()
        three.propose(leader, b"x")
        three.crash(leader)
        three.cluster.run_for(3)
        return [three.clock.now, three.leader(), three.journals["n2"][:], three.hosts["n3"].leaders]

    assert run() == run()


def test_a_crashed_leader_costs_one_election() -> None:
    """The others agree on a new one within two election times, and keep what was applied."""
    three = Shielded()
    first = three.elect()
    three.propose(first, b"kept")
    three.cluster.run_until(lambda: bool(three.hosts[first].payloads), within=1)
    three.crash(first)
    three.cluster.run_until(lambda: three.leader() is not None, within=2)
    second = three.leader()
    assert second is not None
    three.propose(second, b"next")
    three.cluster.start(first)
    three.cluster.run_for(1)
    assert [three.hosts[n].payloads for n in three.names] == [[b"kept", b"next"]] * 3


def test_a_restart_replays_the_journal_from_its_commit_index() -> None:
    """Everything committed is applied again, once, before anything new."""
    three = Shielded()
    leader = three.elect()
    three.propose(leader, b"a")
    three.cluster.run_for(1)
    for name in three.names:
        three.crash(name)
    for name in three.names:
        three.cluster.start(name)
    three.elect()
    three.cluster.run_for(1)
    assert [three.hosts[n].payloads for n in three.names] == [[b"a"]] * 3


class TestD19Elections:
    """No pre-vote, no stickiness, no terms in rejections."""

    def test_a_node_that_was_cut_off_does_not_depose_the_leader(self) -> None:
        """It asks first, is told that the leader lives, and follows it again."""
        three = Shielded()
        leader = three.elect()
        term = three.kernel(leader).term
        other = next(n for n in three.names if n != leader)
        third = next(n for n in three.names if n not in (leader, other))
        three.cluster.cut(leader, other)  # but not from the third, through which it could disturb
        three.cluster.run_for(10)
        assert three.leader() == leader
        three.cluster.heal(leader, other)
        three.cluster.run_for(1)
        assert three.leader() == leader
        assert {three.kernel(n).term for n in three.names} == {term}
        assert three.kernel(other).leader == three.kernel(third).leader == leader

    def test_a_higher_term_does_not_make_a_node_deaf_for_ever(self) -> None:
        """A node that reached a higher term all the same is heard, and the cluster goes on."""
        three = Shielded()
        leader = three.elect()
        other = next(n for n in three.names if n != leader)
        three.crash(other)
        three.journals[other].setCurrentTerm(50, other)
        three.journals[other].sync()
        three.cluster.start(other)
        three.cluster.run_until(
            lambda: (
                three.leader() is not None and all(three.kernel(n).term > 50 for n in three.names)
            ),
            within=5,
        )
        leader = three.elect()
        three.propose(leader, b"alive")
        three.cluster.run_for(1)
        assert all(three.hosts[n].payloads[-1:] == [b"alive"] for n in three.names)

    def test_a_leader_without_a_majority_steps_down_within_an_election_time(self) -> None:
        """And the others have a new one by then."""
        three = Shielded()
        leader = three.elect()
        three.cluster.isolate(leader)
        three.cluster.run_for(0.9)
        assert not three.kernel(leader).is_leader
        three.cluster.run_for(1)
        assert three.leader() not in (None, leader)

    def test_a_request_for_votes_is_not_heard_while_the_leader_is(self) -> None:
        """Not by a follower, and not by the leader itself."""
        three = Shielded()
        leader = three.elect()
        term = three.kernel(leader).term
        follower, other = (n for n in three.names if n != leader)
        three.kernel(follower).receive(other, VoteRequest(term + 1, 99, term))
        three.kernel(leader).receive(other, VoteRequest(term + 1, 99, term))
        assert three.kernel(follower).term == three.kernel(leader).term == term


def test_a_leaders_broken_connections_bring_an_early_election() -> None:
    """A dead process is replaced long before an election time has passed."""
    waits = []
    for seed in range(20):
        three = Shielded(seed=seed)
        leader = three.elect()
        three.cluster.run_for(0.5)
        three.crash(leader)
        begun = three.clock.now
        three.elect()
        waits.append(three.clock.now - begun)
    assert sorted(waits)[len(waits) // 2] < 0.15


def test_a_connection_to_the_leader_that_breaks_for_one_node_changes_nothing() -> None:
    """The other one still hears the leader, and says so."""
    three = Shielded()
    leader = three.elect()
    term = three.kernel(leader).term
    follower = next(n for n in three.names if n != leader)
    for _ in range(10):
        three.cluster.cut(leader, follower)
        three.cluster.run_for(0.3)
        three.cluster.heal(leader, follower)
        three.cluster.run_for(0.2)
    assert (three.leader(), three.kernel(leader).term) == (leader, term)


class TestD20OldAnswersAreNoNews:
    """A leader is stopped; acknowledgements wait in its sockets; it goes on."""

    def test_ours_knows_how_old_they_are(self) -> None:
        """They belong to appends from before, so it steps down at once."""
        three = Shielded()
        leader = three.elect()
        others = [n for n in three.names if n != leader]
        three.cluster.run_for(0.3)
        for other in others:
            three.cluster.hold(other, leader)
        three.cluster.run_for(0.15)
        three.clock.now += 5  # nobody ran; the answers are on their way
        node = three.kernel(leader)
        assert all(three.cluster.on_the_way(other, leader) for other in others)
        for other in others:
            for message in three.cluster.on_the_way(other, leader):
                node.receive(other, message)
        node.tick()
        assert not node.is_leader


TOLD = 24
"""Items 0 to 23: all that is in the first copy."""


class TestD2InAWholeCluster:
    """Leader L, follower F, and G, which is cut off. What L sent to F is lost with a connection;
    L goes on sending behind the gap, so that F asks for the backlog more than once. F gets it, L
    answers its clients, F gets the beginning of the second copy, and L is killed: one crash."""

    def test_stock_loses_what_clients_were_told(self) -> None:
        """F cut its log at the second copy, and is elected without the rest."""
        clock = VirtualClock()
        names = ["n1", "n2", "n3"]
        cluster = Cluster(
            names,
            lambda name: StockNode(
                name,
                [n for n in names if n != name],
                clock=clock,
                seed=int(name[1]),
                appendEntriesBatchSizeBytes=300,
            ),
            clock=clock,
        )

        def node(name: str) -> StockNode:
            found = cluster.nodes[name]
            assert isinstance(found, StockNode)
            return found

        cluster.run_until(lambda: any(node(n).is_leader for n in names), within=5)
        leader = next(n for n in names if node(n).is_leader)
        cluster.run_for(0.3)
        told: list[str] = []

        def put(item: int) -> None:
            text = f"item {item}, " + "x" * 60
            node(leader).put(text, lambda result, error: error or told.append(result))
            cluster.round(leader)

        follower = _open_a_gap(cluster, leader, put)
        while len(told) < TOLD:
            _deliver_next(cluster, leader, follower)
        while node(follower).log[-1][1] > 20:
            cluster.deliver_one(leader, follower)
        cluster.crash(leader)
        cluster.heal_all()
        cluster.run_for(3)
        survivors = [node(n).applied for n in names if n != leader]
        assert set(told) - set(survivors[0]) - set(survivors[1])

    @pytest.mark.parametrize("more", range(6))
    def test_ours_keeps_it(self, more: int) -> None:
        """Wherever the leader dies after it has answered."""
        three = Shielded(max_entry_bytes=150)
        leader = three.elect()
        three.cluster.run_for(0.3)
        follower = _open_a_gap(
            three.cluster, leader, lambda item: three.propose(leader, b"%d" % item + bytes(50))
        )
        told = three.hosts[leader].payloads
        while len(told) < TOLD:
            _deliver_next(three.cluster, leader, follower)
            told = three.hosts[leader].payloads
        for _ in range(min(more, len(three.cluster.on_the_way(leader, follower)))):
            three.cluster.deliver_one(leader, follower)
        three.crash(leader)
        three.cluster.heal_all()
        three.cluster.run_for(3)
        assert len(told) >= TOLD
        for name in three.cluster.nodes:
            assert three.hosts[name].payloads[: len(told)] == told


def _open_a_gap(cluster: Cluster, leader: str, put: Callable[[int], None]) -> str:
    """The beginning of the schedule; gives F. What L sends to F from now on is held."""
    follower, third = (n for n in cluster.names if n != leader)
    cluster.cut(leader, third)
    cluster.cut(follower, third)
    cluster.hold(leader, follower)
    for item in range(20):
        put(item)
    cluster.cut(leader, follower)
    cluster.let_go(leader, follower)
    cluster.heal(leader, follower)
    for item in range(20, 23):
        put(item)
        cluster.run_for(0.0005)
    while not any(cluster.on_the_way(follower, leader)):
        cluster.run_for(0.0001)
    cluster.hold(leader, follower)
    for item in range(23, 26):
        cluster.run_for(0.0005)
        put(item)  # after each of these requests
    return follower


def _deliver_next(cluster: Cluster, leader: str, follower: str) -> None:
    while not cluster.on_the_way(leader, follower):
        cluster.run_for(0.01)
    cluster.deliver_one(leader, follower)
    cluster.run_for(0.002)


def _disturb(cluster: Cluster, chance: random.Random, journals: dict[str, MemoryJournal]) -> None:
    """At most one fault or repair."""
    dice = chance.random()
    one, other = chance.sample(cluster.names, 2)
    if dice < 0.06:
        cluster.cut(one, other)
    elif dice < 0.10:
        cluster.hold(one, other)
    elif dice < 0.20:
        cluster.heal_all()
        for pair in ((one, other), (other, one)):
            cluster.let_go(*pair)
    elif dice < 0.23 and len(cluster.nodes) == len(cluster.names):
        cluster.crash(one)
        journals[one] = journals[one].crash()
    elif dice < 0.35:
        for name in cluster.names:
            if name not in cluster.nodes:
                cluster.start(name)


def _shielded_run(seed: int, *, seconds: int = 30) -> tuple[int, int]:
    """A run with power losses. Checks every applied entry; gives (applied, leaders seen)."""
    three = Shielded(seed=seed)
    chance = random.Random(seed)  # noqa: S311 - a seeded run
    applied: dict[int, tuple[int, bytes]] = {}
    seen = dict.fromkeys(three.names, 0)
    leaders: dict[int, str] = {}
    number = 0
    for _ in range(10 * seconds):
        for name in sorted(three.cluster.nodes):
            if three.kernel(name).is_leader:
                assert leaders.setdefault(three.kernel(name).term, name) == name
                number += 1
                three.propose(name, b"%d" % number * 20)
        _disturb(three.cluster, chance, three.journals)
        three.cluster.run_for(0.1)
        for name in three.names:
            entries = three.hosts[name].applied
            if len(entries) < seen[name]:
                seen[name] = 0  # restarted: it applies everything again
            previous = entries[seen[name] - 1][0] if seen[name] else 0
            for index, term, payload in entries[seen[name] :]:
                assert index > previous
                assert applied.setdefault(index, (term, payload)) == (term, payload)
                previous = index
            seen[name] = len(entries)
    three.cluster.heal_all()
    for name in three.names:
        if name not in three.cluster.nodes:
            three.cluster.start(name)
    three.cluster.run_for(2)  # whoever led when it was cut off knows by now that another does
    leader = three.elect()
    three.propose(leader, b"last")
    three.cluster.run_for(3)
    assert len({tuple(three.hosts[n].applied) for n in three.names}) == 1
    assert set(applied) <= {index for index, _, _ in three.hosts[leader].applied}
    assert three.hosts[leader].payloads[-1] == b"last"
    return len(applied), len(leaders)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_applied_is_ever_lost_or_changed(seed: int) -> None:
    """Random cuts, delays and power losses: every node applies the same entry at an index, what
    one has applied all have in the end, a term has one leader, and the cluster recovers."""
    applied, leaders = _shielded_run(seed)
    assert applied > 50
    assert leaders > 1


def test_a_peer_that_is_far_behind_gets_its_backlog_in_portions() -> None:
    """Neither in one tick, nor with a burst of every later entry: and it catches up in a second."""
    three = Shielded(max_entry_bytes=512 * 1024)
    leader = three.elect()
    other = next(n for n in three.names if n != leader)
    three.cluster.isolate(other)
    for number in range(60):
        three.propose(leader, b"%03d" % number + bytes(400_000))
        three.cluster.run_for(0.01)
    three.cluster.heal_all()
    three.cluster.run_for(0.004)
    waiting = sum(
        len(command)
        for message in three.cluster.on_the_way(leader, other)
        if isinstance(message, Append)
        for _, command in message.entries
    )
    assert waiting < 10 * 2**20
    three.cluster.run_for(1.5)
    assert three.hosts[other].payloads == three.hosts[leader].payloads
    assert len(three.hosts[other].payloads) == 60


def test_a_host_is_not_asked_for_more_than_may_be_uncommitted() -> None:
    """A leader without a majority does not pile up entries that would have to be taken back."""
    three = Shielded(max_uncommitted_entries=8)
    leader = three.elect()
    three.cluster.isolate(leader)
    three.hosts[leader].queue.extend(b"%d" % number for number in range(100))
    three.cluster.round(leader)
    node = three.kernel(leader)
    assert node.last_index - node.commit_index == 8
    assert len(three.hosts[leader].queue) == 92


def test_a_cluster_of_one_works() -> None:
    """It elects itself and applies."""
    one = Shielded(1)
    leader = one.elect()
    one.propose(leader, b"x")
    one.cluster.run_for(0.5)
    assert one.hosts[leader].payloads == [b"x"]


def test_five_nodes_survive_two() -> None:
    """A majority of three goes on."""
    five = Shielded(5)
    leader = five.elect()
    five.crash(leader)
    five.crash(next(n for n in five.names if n != leader))
    five.cluster.run_for(3)
    survivor = five.elect()
    five.propose(survivor, b"x")
    five.cluster.run_for(1)
    assert sum(five.hosts[n].payloads == [b"x"] for n in five.cluster.nodes) == 3
