"""What a node may believe of how far the log is committed: only what a leader that knows has told it on this connection."""

from __future__ import annotations

from raft_schedules import Shielded

from holdfast_coordinator.raft.messages import Append


def settled() -> tuple[Shielded, str, str]:
    """Three nodes with a few entries committed everywhere: the cluster, its leader, a follower."""
    three = Shielded()
    leader = three.elect()
    for number in range(5):
        three.propose(leader, b"%d" % number)
    three.cluster.run_for(0.5)
    return three, leader, next(name for name in three.names if name != leader)


def test_all_nodes_know_it_once_the_leader_has_committed_in_its_term() -> None:
    three, leader, _ = settled()
    end = three.kernel(leader).commit_index
    assert [three.kernel(name).leader_commit_index for name in three.names] == [end] * 3


def test_a_node_that_starts_again_does_not_believe_its_own_disk() -> None:
    """time 0: it is away while entries are committed, in the same term; time 1: it has started, and applied all that it has;
    time 2: the leader's first append says how far the others are; time 3: it is there."""
    three, leader, away = settled()
    three.crash(away)
    for number in range(5):
        three.propose(leader, b"meanwhile %d" % number)
        three.cluster.run_for(0.05)
    end = three.kernel(leader).commit_index
    three.cluster.start(away)
    node = three.kernel(away)
    assert node.term == three.kernel(leader).term
    node.tick()
    assert node.applied_index == node.commit_index < end
    assert node.leader_commit_index is None
    three.cluster.run_until(lambda: node.leader_commit_index is not None, within=1)
    assert node.leader_commit_index == end


def test_what_was_heard_on_an_earlier_connection_does_not_count() -> None:
    three, leader, follower = settled()
    assert three.kernel(follower).leader_commit_index is not None
    three.cluster.cut(leader, follower)
    assert three.kernel(follower).leader_commit_index is None
    three.cluster.heal(leader, follower)
    three.cluster.run_until(
        lambda: three.kernel(follower).leader_commit_index is not None, within=1
    )


def test_a_new_leader_that_does_not_know_yet_what_was_committed_is_not_believed() -> None:
    """time 0: the leader commits an entry, the others do not hear that it is committed; time 1: it dies; time 2: another is
    elected, whose own entry is not acknowledged yet. What it says may be too little."""
    three, leader, _ = settled()
    others = [name for name in three.names if name != leader]
    three.propose(leader, b"the last")
    three.cluster.run_until(
        lambda: all(three.journals[name][-1][0].endswith(b"the last") for name in others), within=1
    )
    for other in others:
        three.cluster.hold(leader, other)
    three.cluster.run_until(
        lambda: three.kernel(leader).commit_index == three.kernel(leader).last_index, within=0.2
    )
    committed = three.kernel(leader).commit_index
    three.crash(leader)
    heard_too_little = False
    while three.leader() is None:
        three.cluster.step()
        three.clock.now += 0.001
        for name in others:
            node = three.kernel(name)
            if node.term > 1 and node.leader is not None and node.commit_index < committed:
                heard_too_little = True
                assert node.leader_commit_index is None or node.leader_commit_index > committed
    assert heard_too_little
    three.cluster.run_for(0.2)
    assert all(three.kernel(name).leader_commit_index for name in others)


def test_an_older_term_is_not_believed() -> None:
    three, leader, follower = settled()
    node = three.kernel(follower)
    before = node.leader_commit_index
    node.receive(leader, Append(node.term - 1, 1, 1, 0, 1, ()))
    assert node.leader_commit_index == before
