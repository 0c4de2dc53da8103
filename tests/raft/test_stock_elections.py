"""The unmodified library on the schedules of elections and clocks: what test_elections.py and others show to be cured."""

from __future__ import annotations

from pysyncobj import FAIL_REASON
from raft_schedules import stock, stock_append
from stock_pysyncobj import StockNode

from holdfast_coordinator.raft.inmem import Cluster, VirtualClock

NAMES = ("n1", "n2", "n3")


class Three:
    """Three stock nodes in virtual time."""

    def __init__(self, **conf: float) -> None:
        self.clock = VirtualClock()
        self.cluster = Cluster(
            NAMES,
            lambda name: StockNode(
                name,
                [each for each in NAMES if each != name],
                clock=self.clock,
                seed=int(name[1]),
                **conf,
            ),
            clock=self.clock,
        )

    def node(self, name: str) -> StockNode:
        found = self.cluster.nodes[name]
        assert isinstance(found, StockNode)
        return found

    def leaders(self) -> list[str]:
        return [name for name in NAMES if self.node(name).is_leader]

    def elect(self) -> str:
        self.cluster.run_until(lambda: bool(self.leaders()), within=5)
        self.cluster.run_for(0.3)
        return self.leaders()[0]


def test_d19_stock_deposes_a_healthy_leader_for_a_node_that_was_cut_off() -> None:
    """It stands alone, again and again; when it is back, its term is the highest, and everybody follows that."""
    three = Three()
    leader = three.elect()
    term = three.node(leader).term
    away, third = (name for name in NAMES if name != leader)
    three.cluster.cut(leader, away)  # but not from the third, through which it disturbs
    three.cluster.run_for(5)
    assert three.node(third).term > term


def test_d20_stock_takes_old_answers_for_news() -> None:
    """time 0: a leader is stopped; time 1: five seconds pass, in which another may be elected; time 2: it goes on, reads what had
    lain in its sockets, and still believes that a majority is with it."""
    three = Three()
    leader = three.elect()
    others = [name for name in NAMES if name != leader]
    for other in others:
        three.cluster.hold(other, leader)
    three.cluster.run_for(0.1)
    three.clock.now += 5
    node = three.node(leader)
    for other in others:
        for message in three.cluster.on_the_way(other, leader):
            node.receive(other, message)
    node.tick()
    assert node.is_leader


def test_d25_stock_stands_for_election_with_the_leaders_heartbeat_unread() -> None:
    """The heartbeat is there, but the tick looks at its deadline first."""
    clock = VirtualClock()
    follower = stock("n1", ("n2", "n3"), clock=clock)
    follower.receive("n2", stock_append(1, 3))
    follower.take()
    clock.now += 1
    follower.tick()
    said = [message["type"] for _, message in follower.take()]
    assert "request_vote" in said


def test_d27_stock_probes_with_nothing_beyond_the_end_of_its_log() -> None:
    """A follower with a longer log sends it there."""
    three = Three()
    leader = three.elect()
    follower = next(name for name in NAMES if name != leader)
    node = three.node(leader)
    node.receive(
        follower, {"type": "next_node_idx", "next_node_idx": 500, "reset": True, "success": False}
    )
    three.clock.now += 0.2
    node.tick()
    probes = [
        message
        for peer, message in node.take()
        if peer == follower and message["type"] == "append_entries"
    ]
    assert probes
    assert all(message.get("prevLogIdx") is None for message in probes)


def test_d36_stock_does_not_hand_over_while_anything_is_unacknowledged() -> None:
    """Which under load is always."""
    three = Three()
    leader = three.elect()
    node = three.node(leader)
    node.put("one more")
    node.tick()
    follower = next(name for name in NAMES if name != leader)
    answers: list[int] = []
    node.raft.transferLeadership(node.peers[follower], lambda _result, error: answers.append(error))
    assert answers == [FAIL_REASON.REQUEST_DENIED]
