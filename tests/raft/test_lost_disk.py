"""D37: a node whose disk was lost is no voter until it was admitted and has caught up."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from raft_schedules import kernel, say, through_the_codec
from recording_host import RecordingHost
from stock_pysyncobj import StockNode

from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.inmem import Cluster, MemoryJournal, VirtualClock
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.memory_disk import MemoryDisk
from holdfast_coordinator.raft.messages import (
    Ack,
    Append,
    PreVote,
    PreVoteRequest,
    TermNotice,
    Vote,
    VoteRequest,
    admission_command,
)
from holdfast_coordinator.raft.peers import (
    ACCEPTED,
    ANOTHER_DIRECTORY,
    FOUNDER,
    MEMBER,
    NEW_DIRECTORY,
    NEWCOMER,
    OTHER_LIMITS,
    PEERS_NAME,
    Introduction,
    PeerBook,
    Verdict,
    is_founded,
)

NAMES = ("n1", "n2", "n3")
WHERE = Path("/data")


def directory_id(number: int) -> str:
    return f"{number:032x}"


class Place:
    """The disk of one node: its journal, its peer book, and the id of its directory."""

    def __init__(self, number: int) -> None:
        self.id = directory_id(number)
        self.journal = MemoryJournal()
        self.disk = MemoryDisk()

    def open_book(
        self, node: str, *, bootstrap: bool, members: tuple[str, ...] = NAMES
    ) -> PeerBook:
        return PeerBook.open(
            self.disk.directory(WHERE),
            node=node,
            directory=self.id,
            members=members,
            bootstrap=bootstrap,
        )


class Gated(Cluster):
    """A cluster whose nodes judge each other's directories before they connect, as the transport does."""

    def __init__(self, names: tuple[str, ...] = NAMES, seed: int = 0) -> None:
        self.places = {name: Place(place) for place, name in enumerate(names, 1)}
        self.books: dict[str, PeerBook] = {}
        self.hosts: dict[str, RecordingHost] = {}
        self.random = random.Random(seed)  # noqa: S311 - a seeded run
        self.bootstrap = True
        self.members = names
        super().__init__(names, self._new_kernel, clock=VirtualClock(), carry=through_the_codec)

    def _new_kernel(self, name: str) -> Kernel:
        place = self.places[name]
        self.hosts[name] = RecordingHost()
        self.books[name] = place.open_book(name, bootstrap=self.bootstrap, members=self.members)
        return Kernel(
            KernelConfig(node=name, peers=tuple(n for n in self.members if n != name)),
            place.journal,
            self.hosts[name],
            clock=self.clock,
            rng=random.Random(self.random.random()),  # noqa: S311 - a seeded run
            book=self.books[name],
        )

    def kernel(self, name: str) -> Kernel:
        node = self.nodes[name]
        assert isinstance(node, Kernel)
        return node

    def _connect(self, one: str, other: str) -> None:
        if not {one, other} <= self.nodes.keys() or frozenset((one, other)) in self._cut:
            return
        books = self.books[one], self.books[other]
        told = books[0].introduce(), books[1].introduce()
        verdicts = books[0].judge(other, told[1]), books[1].judge(one, told[0])
        if {verdict.code for verdict in verdicts} == {ACCEPTED}:
            books[0].met(other, told[1], verdicts[1])
            books[1].met(one, told[0], verdicts[0])
            super()._connect(one, other)

    def knock(self) -> None:
        """Whoever is not connected tries again."""
        for place, one in enumerate(self.names):
            for other in self.names[place + 1 :]:
                if (one, other) not in self._links:
                    self._connect(one, other)

    def round(self, name: str) -> None:
        super().round(name)
        node = self.kernel(name)
        while node.to_disconnect:
            self._disconnect(name, node.to_disconnect.pop())

    def leader(self) -> str | None:
        leaders = [name for name in self.nodes if self.kernel(name).has_own_term_commit]
        return max(leaders, key=lambda name: self.kernel(name).term, default=None)

    def elect(self) -> str:
        self.run_until(lambda: self.leader() is not None, within=10)
        return self.leader() or ""

    def propose(self, name: str, payload: bytes) -> None:
        self.hosts[name].queue.append(payload)
        self.round(name)

    def lose_disk(self, name: str) -> None:
        """The node dies, and its disk with it."""
        self.crash(name)
        self.places[name] = Place(100 + int(name[1:]))

    def replace(self, name: str) -> None:
        """The operator admits it, and it knocks until all let it in."""
        leader = self.elect()
        directory = self.books[leader].refused[name]
        assert self.kernel(leader).propose_admission(name, directory)
        self.run_for(0.5)
        self.knock()


def schedule(cluster: Gated) -> tuple[str, str, str]:
    """Until time 1 of D37: E is acknowledged by L and F; G is cut off; F's disk is lost. Gives L, F, G."""
    leader = cluster.elect()
    cluster.run_for(0.5)
    follower, third = (name for name in cluster.names if name != leader)
    cluster.isolate(third)
    cluster.propose(leader, b"E")
    cluster.run_until(lambda: cluster.hosts[leader].payloads == [b"E"], within=1)
    cluster.lose_disk(follower)
    return leader, follower, third


class TestD37ALostDiskVotes:
    """E is acknowledged by L and F, G is cut off; F's disk is lost; L dies; F (empty) meets G."""

    def test_stock_loses_the_entry(self) -> None:
        """F and G elect one of them; E was acknowledged, and is gone."""
        clock = VirtualClock()
        journals = {name: MemoryJournal() for name in NAMES}
        cluster = Cluster(
            NAMES,
            lambda name: StockNode(
                name,
                [n for n in NAMES if n != name],
                clock=clock,
                seed=int(name[1]),
                journal=journals[name],
            ),
            clock=clock,
        )

        def node(name: str) -> StockNode:
            found = cluster.nodes[name]
            assert isinstance(found, StockNode)
            return found

        cluster.run_until(lambda: any(node(n).is_leader for n in NAMES), within=5)
        leader = next(n for n in NAMES if node(n).is_leader)
        cluster.run_for(0.5)
        follower, third = (n for n in NAMES if n != leader)
        cluster.isolate(third)
        told: list[str] = []
        node(leader).put("E", lambda result, error: error or told.append(result))
        cluster.run_until(lambda: told == ["E"], within=1)
        cluster.crash(follower)
        journals[follower] = MemoryJournal()
        cluster.crash(leader)
        cluster.start(follower)
        cluster.heal_all()
        cluster.run_until(lambda: any(node(n).is_leader for n in (follower, third)), within=10)
        node(next(n for n in (follower, third) if node(n).is_leader)).put("later")
        cluster.run_for(1)
        assert node(follower).applied == node(third).applied == ["later"]

    @pytest.mark.parametrize("bootstrap", [False, True])
    def test_ours_refuses_it_whatever_flag_it_was_started_with(self, bootstrap: bool) -> None:
        """Without L there is no majority, so nothing is granted; with L back, E is there."""
        cluster = Gated()
        leader, follower, third = schedule(cluster)
        cluster.crash(leader)
        cluster.bootstrap = bootstrap
        cluster.start(follower)
        cluster.heal_all()
        cluster.run_for(10)
        cluster.knock()
        cluster.run_for(10)
        assert cluster.leader() is None
        assert cluster.books[third].refused == {follower: cluster.places[follower].id}
        cluster.start(leader)
        cluster.elect()
        cluster.run_for(1)
        assert cluster.hosts[third].payloads == [b"E"]
        assert cluster.kernel(follower).last_index == 1

    def test_ours_admits_it_when_told_and_it_has_everything_before_it_votes(self) -> None:
        """replace-node, catching up, a later term: then L may die, and E survives."""
        cluster = Gated()
        leader, follower, third = schedule(cluster)
        cluster.bootstrap = False
        cluster.start(follower)
        cluster.heal_all()
        cluster.replace(follower)
        cluster.run_for(1)
        term = cluster.kernel(leader).term
        assert cluster.hosts[follower].payloads == [b"E"]
        assert not cluster.books[follower].may_vote(term)
        assert cluster.books[follower].may_vote(term + 1)
        cluster.crash(leader)
        second = cluster.elect()
        cluster.propose(second, b"F")
        cluster.run_for(1)
        for name in (follower, third):
            assert cluster.hosts[name].payloads == [b"E", b"F"]

    def test_ours_needs_a_majority_without_it_to_admit_it(self) -> None:
        """With G still cut off, L alone cannot admit F, and F gets no connection by waiting."""
        cluster = Gated()
        leader, follower, _ = schedule(cluster)
        cluster.bootstrap = False
        cluster.start(follower)
        cluster.kernel(leader).propose_admission(follower, cluster.places[follower].id)
        cluster.run_for(5)
        cluster.knock()
        cluster.run_for(5)
        assert cluster.leader() is None
        assert cluster.kernel(follower).last_index == 1

    def test_the_old_directory_is_refused_once_its_successor_stands_in_the_log(self) -> None:
        """Or both could serve as the same voter: the old one is found again after the replacement."""
        cluster = Gated()
        leader, follower, third = schedule(cluster)
        cluster.bootstrap = False
        cluster.start(follower)
        cluster.heal_all()
        cluster.kernel(leader).propose_admission(follower, cluster.places[follower].id)
        cluster.round(leader)
        old = Introduction(bytes.fromhex(directory_id(NAMES.index(follower) + 1)), state=MEMBER)
        assert cluster.books[leader].judge(follower, old).code == ANOTHER_DIRECTORY
        cluster.run_for(0.5)
        for name in (leader, third):
            assert cluster.books[name].judge(follower, old).code == ANOTHER_DIRECTORY

    def test_founders_elect_nobody_before_all_have_met(self) -> None:
        """Two of three would be a majority; but they could not tell the third from its replacement."""
        cluster = Gated()
        cluster.crash("n3")
        cluster.places = {name: Place(place) for place, name in enumerate(NAMES, 1)}
        for name in ("n1", "n2"):
            cluster.crash(name)
        for name in ("n1", "n2"):
            cluster.start(name)
        cluster.run_for(10)
        assert cluster.leader() is None
        cluster.start("n3")
        cluster.elect()

    def test_five_nodes_go_on_while_one_is_replaced(self) -> None:
        """And the replaced one counts afterwards, when two others are gone."""
        cluster = Gated(("n1", "n2", "n3", "n4", "n5"))
        leader = cluster.elect()
        lost, *others = (name for name in cluster.names if name != leader)
        cluster.propose(leader, b"E")
        cluster.run_for(0.5)
        cluster.lose_disk(lost)
        cluster.bootstrap = False
        cluster.start(lost)
        cluster.propose(leader, b"F")
        cluster.replace(lost)
        cluster.run_for(1)
        cluster.crash(leader)
        cluster.crash(others[0])
        second = cluster.elect()
        cluster.propose(second, b"G")
        cluster.run_for(1)
        assert cluster.hosts[lost].payloads == [b"E", b"F", b"G"]


class TestWhatAnAdmittedNodeMayDo:
    """Node n1 was admitted by entry 3; it has only begun to catch up."""

    @pytest.fixture
    def newcomer(self) -> tuple[Kernel, PeerBook]:
        place, clock = Place(9), VirtualClock()
        book = place.open_book("n1", bootstrap=False)
        for peer in ("n2", "n3"):
            theirs = Introduction(bytes.fromhex(directory_id(int(peer[1]))), state=MEMBER)
            assert book.judge(peer, theirs).code == ACCEPTED
            book.met(peer, theirs, through_verdict(3))
        made = Kernel(
            KernelConfig(node="n1", peers=("n2", "n3")),
            place.journal,
            RecordingHost(),
            clock=clock,
            rng=random.Random(0),  # noqa: S311 - a seeded run
            book=book,
        )
        for peer in ("n2", "n3"):
            made.peer_connected(peer)
        say(made)
        return made, book

    def test_it_neither_votes_nor_pre_votes_nor_stands(
        self, newcomer: tuple[Kernel, PeerBook]
    ) -> None:
        """However long it hears nothing, and whoever asks; but it learns the term."""
        node, _ = newcomer
        node.receive("n2", PreVoteRequest(7, 9, 6))
        node.receive("n2", VoteRequest(7, 9, 6, hand_over=True))
        for _ in range(5):
            node._clock.now += 5  # type: ignore[attr-defined]
            node.tick()
        assert not [m for _, m in say(node) if not isinstance(m, TermNotice)]
        assert node.term == 7
        assert node.stats.elections == 0

    def test_it_votes_in_the_term_after_the_one_in_which_it_has_its_admission_committed(
        self, newcomer: tuple[Kernel, PeerBook]
    ) -> None:
        """Not in that term itself: an earlier life of it may have voted there."""
        node, book = newcomer
        entries = ((4, b"\x10E"), (4, admission_command("n1", directory_id(9))))
        node.receive("n2", Append(4, 3, 1, 0, 1, entries))
        node.tick()
        assert say(node) == [("n2", Ack(4, 4, True, False, 1))]
        assert not book.may_vote(4)
        node._clock.now += 5  # type: ignore[attr-defined]
        node.receive("n3", VoteRequest(4, 9, 4))
        assert say(node) == []
        node.receive("n3", PreVoteRequest(5, 3, 4))
        node.receive("n3", VoteRequest(5, 3, 4))
        assert say(node) == [("n3", PreVote(5)), ("n3", Vote(5))]

    def test_it_remembers_that_over_a_restart(self, newcomer: tuple[Kernel, PeerBook]) -> None:
        """On disk before it votes."""
        _, book = newcomer
        book.caught_up(commit_index=3, term=4)
        again = PeerBook.open(
            book._files, node="n1", directory=directory_id(9), members=NAMES, bootstrap=True
        )
        assert not again.may_vote(4)
        assert again.may_vote(5)


def through_verdict(admission: int) -> Verdict:
    """A member's verdict on a directory that was admitted by that entry."""
    return Verdict(ACCEPTED, admission)


def test_a_leader_counts_an_admitted_node_from_its_admission_on() -> None:
    """Acknowledgements below it move the leader on, and commit nothing."""
    clock = VirtualClock()
    book = Place(1).open_book("n1", bootstrap=True)
    for peer in ("n2", "n3"):
        book.met(peer, Introduction(bytes.fromhex(directory_id(int(peer[1])))), through_verdict(0))
    leader = kernel("n1", ("n2", "n3"), clock=clock)
    leader._book = book
    clock.now += 1
    leader.tick()
    leader.receive("n2", PreVote(1))
    leader.tick()
    leader.receive("n2", Vote(1))
    leader.tick()
    say(leader)
    assert leader.is_leader
    leader.peer_disconnected("n3")
    assert leader.propose_admission("n3", directory_id(33))
    leader.tick()
    say(leader)
    leader.receive("n2", Ack(1, 4, True, False, 1))
    leader.tick()
    assert leader.commit_index == 3  # by n1 and n2, without n3
    leader.peer_connected("n3")
    leader.receive("n3", Ack(1, 3, True, False, 1))
    assert leader.match_index["n3"] == 0
    leader.receive("n3", Ack(1, 4, True, False, 2))
    assert leader.match_index["n3"] == 3


class TestThePeerBook:
    """Judging, remembering, founding."""

    def founders(self) -> dict[str, PeerBook]:
        return {
            name: Place(place).open_book(name, bootstrap=True)
            for place, name in enumerate(NAMES, 1)
        }

    def meet(self, one: PeerBook, other: PeerBook) -> bool:
        told = one.introduce(), other.introduce()
        verdicts = one.judge(other.node, told[1]), other.judge(one.node, told[0])
        if any(verdict.code != ACCEPTED for verdict in verdicts):
            return False
        one.met(other.node, told[1], verdicts[1])
        other.met(one.node, told[0], verdicts[0])
        return True

    def test_the_boots_of_an_admitted_directory_come_after_all_earlier_ones(self) -> None:
        """Callers are told of outcomes by (node, boot, sequence): a new directory must not name one again."""
        place = Place(1)
        founder = place.open_book("n1", bootstrap=True)
        assert [founder.boot(1), founder.boot(2)] == [1, 2]
        newcomer = Place(2).open_book("n1", bootstrap=False)
        newcomer.admit("n1", 7, newcomer.directory)
        assert newcomer.boot(1) > founder.boot(5_000)
        again = Place(3).open_book("n1", bootstrap=False)
        again.admit("n1", 9, again.directory)
        assert again.boot(1) > newcomer.boot(2_000)

    def test_a_founder_votes_when_it_has_met_all(self) -> None:
        """Not before: whoever votes must know which directories to refuse."""
        books = self.founders()
        assert self.meet(books["n1"], books["n2"])
        assert not books["n1"].may_vote(1)
        assert self.meet(books["n1"], books["n3"])
        assert books["n1"].may_vote(1)
        assert not books["n2"].may_vote(1)
        assert books["n1"].introduce().state == MEMBER
        assert books["n2"].introduce().state == FOUNDER
        assert self.meet(books["n2"], books["n3"])
        assert books["n2"].may_vote(1)

    def test_a_newcomer_is_refused_by_founders_and_members_and_newcomers(self) -> None:
        """It was not told to found anything, and nobody has admitted it."""
        books = self.founders()
        late = Place(7).open_book("n3", bootstrap=False)
        assert late.introduce().state == NEWCOMER
        assert books["n1"].judge("n3", late.introduce()).code == NEW_DIRECTORY
        assert books["n1"].refused == {"n3": directory_id(7)}
        other = Place(8).open_book("n2", bootstrap=False)
        assert other.judge("n3", late.introduce()).code == NEW_DIRECTORY

    def test_nodes_with_other_limits_refuse_each_other(self) -> None:
        """Their machines would decide differently about one log."""
        books = self.founders()
        other = Introduction(bytes.fromhex(directory_id(2)), b"x" * 16, FOUNDER)
        assert books["n1"].judge("n2", other).code == OTHER_LIMITS

    def test_a_damaged_book_is_fail_stop(self) -> None:
        """With a sentence: guessing would mean trusting anybody."""
        place = Place(1)
        place.open_book("n1", bootstrap=True)
        data = bytearray(place.disk.contents(WHERE, PEERS_NAME))
        data[20] ^= 1
        place.disk.damage(WHERE, PEERS_NAME, bytes(data))
        with pytest.raises(EngineFailure, match="peers does not check"):
            place.open_book("n1", bootstrap=True)

    def test_a_node_whose_place_was_taken_stops(self) -> None:
        """The log tells it, should its old directory come back."""
        book = self.founders()["n3"]
        with pytest.raises(EngineFailure, match="n3 was replaced"):
            book.admit("n3", 9, directory_id(33))

    def test_an_older_admission_does_not_undo_a_newer_one(self) -> None:
        """When a journal is replayed after a restart."""
        book = self.founders()["n1"]
        assert book.admit("n3", 9, directory_id(33))
        assert book.admit("n3", 12, directory_id(34))
        assert not book.admit("n3", 9, directory_id(33))
        assert book.admissions() == [("n3", 12, directory_id(34))]

    def test_whether_a_directory_belongs_to_a_cluster_can_be_seen_from_outside(
        self, tmp_path: Path
    ) -> None:
        """That is how `holdfast up` knows whether to found a cluster."""
        from holdfast_coordinator.raft.disk import OsDisk

        assert not is_founded(tmp_path / "n1")
        files = OsDisk().directory(tmp_path / "n1")
        book = PeerBook.open(
            files, node="n1", directory=directory_id(1), members=("n1", "n2"), bootstrap=True
        )
        assert not is_founded(tmp_path / "n1")
        book.met("n2", Introduction(bytes.fromhex(directory_id(2))), through_verdict(0))
        assert is_founded(tmp_path / "n1")
        files.close()
