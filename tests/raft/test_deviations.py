"""Where pysyncobj 0.3.17 departs from Raft: its behaviour, and ours, on the same schedule.

Each class is one deviation of the audit, by number. Within a class the first test shows the library
as it is shipped; if one of those fails, the library has changed, and the pin should be reconsidered.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from pysyncobj.tcp_connection import TcpConnection
from pysyncobj.transport import TCPTransport
from raft_schedules import Shielded, append, kernel, last_index, say, stock, stock_append
from recording_host import RecordingHost
from stock_pysyncobj import StockNode

from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.inmem import MemoryJournal, VirtualClock
from holdfast_coordinator.raft.kernel import COMMIT_TOLD_WITHIN_SECONDS, Kernel
from holdfast_coordinator.raft.messages import (
    ENTRY_OWN,
    Ack,
    Append,
    MessageError,
    PreVote,
    Vote,
    VoteRequest,
    decode,
)

FOUR = ("n2", "n3", "n4", "n5")
TWO = ("n2", "n3")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def lead_stock(node: StockNode, clock: VirtualClock, *voters: str) -> None:
    """Time out, stand for election, and get these votes."""
    clock.now += 1
    node.tick()
    for voter in voters:
        node.receive(voter, {"type": "response_vote", "term": node.term})
    node.take()


def stand(node: Kernel, clock: VirtualClock, *voters: str) -> None:
    """Time out, and get the pre-votes that a real election needs."""
    clock.now += 1
    node.tick()
    for voter in voters:
        node.receive(voter, PreVote(node.term + 1))
    node.tick()


def lead(node: Kernel, clock: VirtualClock, *voters: str) -> None:
    """Stand, and get these votes."""
    stand(node, clock, *voters)
    say(node)
    for voter in voters:
        node.receive(voter, Vote(node.term))
    say(node)


def ack(next_index: int, *, term: int, stamp: int = 1) -> Ack:
    return Ack(term, next_index, True, False, stamp)


class TestD2FollowerCutsWhatItHasAcknowledged:
    """Two copies of one backlog are on the way; the leader dies within the second one."""

    def test_stock_forgets_acknowledged_entries(self, clock: VirtualClock) -> None:
        """The first batch of the second copy cuts the log below what was acknowledged."""
        follower = stock("n1", TWO, clock=clock)
        follower.receive("n2", stock_append(1, 9))
        assert follower.take()[-1][1]["next_node_idx"] == 10
        follower.receive("n2", stock_append(1, 4))
        assert last_index(follower.journal) == 4

    def test_ours_keeps_them(self, clock: VirtualClock) -> None:
        """What is present and agrees stays, and is acknowledged only as far as the batch goes."""
        journal = MemoryJournal()
        follower = kernel("n1", TWO, clock=clock, journal=journal)
        follower.receive("n2", append(1, 9))
        assert say(follower) == [("n2", ack(10, term=1))]
        follower.receive("n2", append(1, 4, commit=9, stamp=2))
        assert last_index(journal) == 9
        assert say(follower) == [("n2", ack(5, term=1, stamp=2))]
        assert follower.commit_index == 4

    def test_a_conflict_cuts_exactly_where_it_begins(self, clock: VirtualClock) -> None:
        """A new leader's entries replace the old ones from the first that differs."""
        journal = MemoryJournal()
        follower = kernel("n1", TWO, clock=clock, journal=journal)
        follower.receive("n2", append(1, 6))
        entries = append(1, 3).entries + append(3, 5, term=2).entries
        follower.receive("n3", Append(2, 1, 1, 0, 7, entries))
        assert [(index, term) for _, index, term in journal[1:]] == [(2, 1), (3, 1), (4, 2), (5, 2)]
        assert say(follower)[-1] == ("n3", ack(6, term=2, stamp=7))

    def test_a_conflict_with_what_is_committed_stops_the_node(self, clock: VirtualClock) -> None:
        """Nothing that Raft allows does this, so it is not covered up."""
        follower = kernel("n1", TWO, clock=clock)
        follower.receive("n2", append(1, 6, commit=5))
        with pytest.raises(EngineFailure, match="contradicts entry 4"):
            follower.receive("n3", append(3, 4, term=2, prev_term=1))

    def test_a_leader_goes_back_once_for_one_gap(self, clock: VirtualClock) -> None:
        """Three appends behind one gap come back as three resets; the backlog is sent once."""
        leader = kernel("n1", TWO, clock=clock, host=RecordingHost())
        lead(leader, clock, "n2")
        stamps = []
        for number in range(3):
            clock.now += 0.2
            leader._host.queue.append(b"%d" % number)  # type: ignore[attr-defined]
            leader.tick()
            stamps += [m.stamp for p, m in say(leader) if p == "n2" and isinstance(m, Append)]
        term = leader.term
        sent = []
        for stamp in stamps:
            leader.receive("n2", Ack(term, 2, False, True, stamp))
            leader.tick()
            sent += [m for p, m in say(leader) if p == "n2" and isinstance(m, Append) and m.entries]
        assert [(m.prev_index, len(m.entries)) for m in sent] == [(1, 4)]

    def test_an_acknowledgement_does_not_move_the_leader_back(self, clock: VirtualClock) -> None:
        """Entries on their way are not sent again when an earlier one is acknowledged."""
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, host=host)
        lead(leader, clock, "n2")
        host.queue.extend([b"a", b"b"])
        leader.tick()
        stamp = max(m.stamp for _, m in say(leader) if isinstance(m, Append))
        leader.receive("n2", ack(3, term=leader.term, stamp=stamp))
        clock.now += 0.2
        leader.tick()
        assert all(not m.entries for p, m in say(leader) if p == "n2" and isinstance(m, Append))


class TestD3AcknowledgementsWithoutATerm:
    """An acknowledgement of an earlier leadership arrives in a later one."""

    def test_stock_counts_it(self, clock: VirtualClock) -> None:
        """The entry is committed, and its client told so, with the leader as its only holder."""
        leader = stock("n1", TWO, clock=clock)
        lead_stock(leader, clock, "n2")
        leader.put("grant")
        leader.tick()
        assert last_index(leader.journal) == 3
        stale = {"type": "next_node_idx", "next_node_idx": 22, "reset": False, "success": True}
        leader.receive("n2", stale)
        leader.tick()
        assert leader.applied == ["grant"]

    def test_ours_drops_it(self, clock: VirtualClock) -> None:
        """Only an acknowledgement of the present term counts."""
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, host=host)
        lead(leader, clock, "n2")
        host.queue.append(b"grant")
        leader.tick()
        stamp = max(m.stamp for _, m in say(leader) if isinstance(m, Append))
        leader.receive("n2", ack(4, term=leader.term - 1, stamp=stamp))
        leader.tick()
        assert host.payloads == []
        assert leader.stats.dropped["ack of an older term"] == 1
        leader.receive("n2", ack(4, term=leader.term, stamp=stamp))
        leader.tick()
        assert host.payloads == [b"grant"]

    def test_a_promise_that_was_overtaken_is_not_sent(self, clock: VirtualClock) -> None:
        """Within one round: an entry is appended, then cut by a newer leader. Its acknowledgement
        must not leave, or the old leader would count an entry that is nowhere."""
        follower = kernel("n1", TWO, clock=clock)
        follower.receive("n2", append(1, 3))
        follower.receive("n3", append(1, 2, term=2))
        assert say(follower) == [("n3", ack(3, term=2))]

    def test_what_was_never_sent_cannot_be_acknowledged(self, clock: VirtualClock) -> None:
        """An acknowledgement beyond the own log, or with a stamp of the future, is dropped."""
        leader = kernel("n1", TWO, clock=clock)
        lead(leader, clock, "n2")
        leader.receive("n2", ack(100, term=leader.term))
        leader.receive("n2", ack(3, term=leader.term, stamp=2**60))
        assert leader.match_index == {"n2": 0, "n3": 0}


class _FakeSocket:
    """As much of the library's TcpConnection as its transport uses."""

    def __init__(self) -> None:
        self.deliver: Callable[[Any], None] = lambda _message: None
        self.encryptor = None

    def setOnMessageReceivedCallback(self, callback: Callable[[Any], None]) -> None:
        self.deliver = callback

    def setOnDisconnectedCallback(self, _callback: Callable[[], None]) -> None: ...


class TestD4SupersededSocketsDeliver:
    """A peer connects again while its earlier socket still holds unread messages. The other half
    of this, on real sockets, is in test_transport.py."""

    def test_stock_delivers_from_both(self, clock: VirtualClock) -> None:
        """An old append arrives after a newer one."""

        class Owner:
            encryptor = None

            def addOnTickCallback(self, _callback: Callable[[], None]) -> None: ...

        transport = TCPTransport(Owner(), None, [])
        node = StockNode("n1", TWO, clock=clock).peers["n2"]
        transport._nodeAddrToNode["n2"] = node
        received: list[Any] = []
        transport.setOnMessageReceivedCallback(lambda _node, message: received.append(message))
        older, newer = _FakeSocket(), _FakeSocket()
        for socket in (older, newer):
            transport._onNewIncomingConnection(socket)
            socket.deliver("n2")
        newer.deliver("new")
        older.deliver("old")
        assert received == ["new", "old"]

    def test_ours_would_not_be_harmed_even_then(self, clock: VirtualClock) -> None:
        """An append of the past changes nothing in a log that agrees with it."""
        journal = MemoryJournal()
        follower = kernel("n1", TWO, clock=clock, journal=journal)
        follower.receive("n2", append(1, 3))
        follower.receive("n2", append(1, 1))
        assert last_index(journal) == 3


class _Watched(MemoryJournal):
    """Notes when it is synced."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def sync(self) -> None:
        self.events.append("sync")
        super().sync()


class TestD5NothingIsPromisedBeforeItIsOnDisk:
    """The durability barrier. (What the journal itself does is tested with the journal.)"""

    def test_stock_acknowledges_at_once(self, clock: VirtualClock) -> None:
        """A power loss after the acknowledgement takes the entry with it."""
        follower = stock("n1", TWO, clock=clock)
        follower.receive("n2", stock_append(1, 3))
        assert follower.take()[-1][1]["success"] is True
        assert follower.journal.durable_index == 0

    def test_ours_syncs_first(self, clock: VirtualClock) -> None:
        """Votes and acknowledgements leave after the sync, for many messages after one sync."""
        events: list[str] = []
        follower = kernel("n1", TWO, clock=clock, journal=_Watched(events))
        follower.receive("n3", VoteRequest(1, 1, 0))
        follower.receive("n2", append(1, 3))
        follower.receive("n2", append(3, 5, stamp=2))
        follower.release(lambda _peer, messages: events.extend(type(m).__name__ for m in messages))
        assert events == ["sync", "Vote", "Ack", "Ack"]

    def test_entries_may_leave_before_the_leaders_own_sync(self, clock: VirtualClock) -> None:
        """The leader counts itself only in a later round; until then the sync is done."""
        events: list[str] = []
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, journal=_Watched(events), host=host)
        lead(leader, clock, "n2")
        events.clear()
        host.queue.append(b"x")
        leader.tick()
        leader.release(lambda _peer, messages: events.extend(type(m).__name__ for m in messages))
        assert events == ["Append", "Append", "sync"]

    def test_after_a_failed_sync_nothing_leaves(self, clock: VirtualClock) -> None:
        """The failure goes to the owner, and the acknowledgement is gone."""

        class Broken(MemoryJournal):
            def sync(self) -> None:
                raise EngineFailure("no space left")

        follower = kernel("n1", TWO, clock=clock, journal=Broken())
        follower.receive("n2", append(1, 3))
        said: list[Any] = []
        with pytest.raises(EngineFailure, match="no space left"):
            follower.release(lambda _peer, messages: said.extend(messages))
        assert said == []

    def test_a_candidate_votes_for_itself_on_disk(self, clock: VirtualClock) -> None:
        """Its own vote survives a power loss before anybody hears of the candidacy."""
        journal = MemoryJournal()
        candidate = kernel("n1", TWO, clock=clock, journal=journal)
        stand(candidate, clock, "n2")
        said = say(candidate)
        assert [peer for peer, message in said if isinstance(message, VoteRequest)] == ["n2", "n3"]
        after = journal.crash()
        assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (1, "n1")

    def test_a_cluster_of_one_applies_only_what_is_on_disk(self, clock: VirtualClock) -> None:
        """With nobody to wait for, the own sync still comes first."""
        journal, host = MemoryJournal(), RecordingHost()
        alone = kernel("n1", (), clock=clock, journal=journal, host=host)
        clock.now += 1
        host.queue.append(b"x")
        alone.tick()
        assert alone.is_leader
        assert host.payloads == []
        assert journal.crash().getVotedForNodeId() == "n1"
        say(alone)
        alone.tick()
        assert host.payloads == [b"x"]
        assert alone.applied_index <= journal.durable_index


class TestD12CallbackThatRaises:
    """The application fails while it is told of an applied entry."""

    def test_stock_applies_the_entry_again(self, clock: VirtualClock) -> None:
        """One replica has then executed it twice."""
        alone = stock("n1", (), clock=clock)
        lead_stock(alone, clock)

        def callback(_result: Any, _error: Any) -> None:
            raise RuntimeError("the caller has gone")

        alone.put("once", callback)
        alone.tick()
        with pytest.raises(RuntimeError):
            alone.tick()
        alone.tick()
        assert alone.applied == ["once", "once"]

    def test_ours_never_does(self, clock: VirtualClock) -> None:
        """The failure comes out, and whoever ticks on does not get the entry a second time."""

        class Fails(RecordingHost):
            def apply(self, index: int, term: int, payload: bytes) -> bool:
                super().apply(index, term, payload)
                raise RuntimeError("the caller has gone")

        host = Fails()
        alone = kernel("n1", (), clock=clock, host=host)
        clock.now += 1
        host.queue.append(b"once")
        alone.tick()
        say(alone)
        with pytest.raises(RuntimeError):
            alone.tick()
        alone.tick()
        assert host.payloads == [b"once"]


class TestD13PoisonPill:
    """The replicated operation itself fails half-way."""

    def test_stock_repeats_the_first_half_for_ever(self, clock: VirtualClock) -> None:
        """Nothing behind the entry is ever applied, and the damage grows with each tick."""
        alone = stock("n1", (), clock=clock)
        lead_stock(alone, clock)
        alone.raft.broken = True
        alone.put("half")
        alone.tick()
        for _ in range(3):
            with pytest.raises(ValueError, match="after half"):
                alone.tick()
        assert alone.applied == ["half"] * 3

    def test_ours_stops_at_the_first(self, clock: VirtualClock) -> None:
        """The entry counts as applied before the host sees it, so there is no second time."""

        class Fails(RecordingHost):
            def apply(self, index: int, term: int, payload: bytes) -> bool:
                super().apply(index, term, payload)
                if payload == b"half":
                    raise ValueError("after half of the work")
                return False

        host = Fails()
        alone = kernel("n1", (), clock=clock, host=host)
        clock.now += 1
        host.queue.extend([b"half", b"behind"])
        alone.tick()
        say(alone)
        with pytest.raises(ValueError, match="after half"):
            alone.tick()
        assert host.payloads == [b"half"]


class TestD15RepliesToAnEarlierLife:
    """A follower restarts; a reply to a request of its earlier life arrives."""

    def test_stock_resolves_the_new_request_with_the_old_reply(self, clock: VirtualClock) -> None:
        """Request numbers begin at 1 in every life."""
        follower = stock("n1", TWO, clock=clock)
        follower.receive("n2", stock_append(1, 1))
        outcomes: list[Any] = []
        follower.put("acquire by NEW", lambda result, error: outcomes.append(error))
        follower.tick()
        old_reply = {"type": "apply_command_response", "request_id": 1, "error": 6}
        follower.receive("n2", old_reply)
        assert outcomes == [6]

    def test_ours_has_no_such_message(self, clock: VirtualClock) -> None:
        """Commands are not forwarded inside the library, and nothing else is in the schema."""
        follower = kernel("n1", TWO, clock=clock)
        with pytest.raises(EngineFailure, match="misassembled"):
            follower._raft._applyCommand(b"x", None, 0)
        follower.library_sends("n2", {"type": "apply_command", "command": b"x"})
        assert say(follower) == []
        for kind in range(7, 300):
            with pytest.raises(MessageError):
                decode([kind, 1, 1, 1], entry_bytes_max=100)


class TestD17VotesAreCountedNotVoters:
    """One vote is delivered twice, in a cluster of five."""

    def test_stock_is_elected_by_two_of_five(self, clock: VirtualClock) -> None:
        """Another candidate can be elected in the same term by the other three."""
        candidate = stock("n1", FOUR, clock=clock)
        lead_stock(candidate, clock, "n2", "n2")
        assert candidate.is_leader

    def test_ours_counts_each_voter_once(self, clock: VirtualClock) -> None:
        """It takes a third node."""
        candidate = kernel("n1", FOUR, clock=clock)
        stand(candidate, clock, "n2", "n3")
        say(candidate)
        candidate.receive("n2", Vote(candidate.term))
        candidate.receive("n2", Vote(candidate.term))
        assert not candidate.is_leader
        candidate.receive("n3", Vote(candidate.term))
        assert candidate.is_leader


_exploded: list[str] = []


def explode(where: str) -> None:
    """What an attacker's pickle calls."""
    _exploded.append(where)


class Bomb:
    """Calls `explode` when it is unpickled."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return explode, (self.where,)


@pytest.fixture(autouse=True)
def _no_explosions_before() -> None:
    _exploded.clear()


class TestD18PickleFromTheWire:
    """Any stranger who can connect sends a frame. Strangers on real sockets: test_transport.py."""

    def test_stock_executes_it(self) -> None:
        """The frame is unpickled before anybody knows who sent it."""
        import zlib

        connection = TcpConnection(poller=None)
        frame = zlib.compress(pickle.dumps(Bomb("wire")))
        buffer = len(frame).to_bytes(4, "little") + frame
        connection._TcpConnection__readBuffer = buffer
        connection._TcpConnection__processParseMessage()
        assert _exploded == ["wire"]

    def test_ours_has_a_closed_schema(self) -> None:
        """Bytes that are not a message are refused, whatever they are."""
        for raw in (pickle.dumps(Bomb("wire")), ["readonly"], {"type": "status"}, [0], [1, "x"], 7):
            with pytest.raises(MessageError):
                decode(raw, entry_bytes_max=100)
        assert _exploded == []

    @pytest.mark.parametrize(
        "raw",
        [
            [0, 1, 1, 0, 0, 1, []],  # follows nothing
            [0, 1, 1, 1, 2, 1, []],  # follows an entry of a later term
            [0, 2, 1, 1, 1, 1, [[2, b"\x10x"], [1, b"\x10x"]]],  # terms fall
            [0, 2, 1, 1, 1, 1, [[3, b"\x10x"]]],  # an entry of a later term
            [0, 2, 1, 1, 1, 1, [[2, "\x10x"]]],  # text
            [0, 2, 1, 1, 1, 1, [[2, b"\x10" + bytes(101)]]],  # over the limit
            [0, 2**62, 1, 1, 1, 1, []],  # a number out of range
            [0, True, 1, 1, 1, 1, []],  # a boolean for a number
            [1, 1, 5, 1, 0, 1],  # numbers for booleans
            [1, 1, 0, True, False, 1],  # no such index
            [1, 1, 5, True, True, 1],  # both at once
            [2, 1, 1],
            [2, 1, 1, -1],
            [3],
            [3, 1, 1],
        ],
    )
    def test_what_contradicts_itself_is_refused(self, raw: Any) -> None:
        """The schema is checked in depth."""
        with pytest.raises(MessageError):
            decode(raw, entry_bytes_max=100)


class TestD34PickleInTheLog:
    """Log entries are data from elsewhere, too."""

    def test_stock_unpickles_every_entry(self, clock: VirtualClock) -> None:
        """Whoever can write to the log or send an entry executes code on every node."""
        follower = stock("n1", TWO, clock=clock)
        message = stock_append(1, 1, commit=2)
        message["entries"] = [(b"\x00" + pickle.dumps(Bomb("log")), 2, 1)]
        follower.receive("n2", message)
        with pytest.raises(Exception, match=r".*"):
            follower.tick()
        assert _exploded == ["log"]

    def test_stock_sends_large_entries_as_pickled_pieces(self, clock: VirtualClock) -> None:
        """From the batch size on."""
        leader = stock("n1", TWO, clock=clock)
        lead_stock(leader, clock, "n2")
        leader.put("x" * 70_000)
        leader.tick()
        assert any("transmission" in message for _, message in leader.take())

    @pytest.mark.parametrize("kind", [0, 2, 3, 4, 18, 255])
    def test_ours_refuses_every_other_type_of_entry_from_a_peer(self, kind: int) -> None:
        """Also the library's own: regular, membership, version."""
        command = bytes([kind]) + pickle.dumps(Bomb("log"))
        raw = [0, 1, 1, 1, 0, 1, [[1, command]]]
        with pytest.raises(MessageError, match="unknown type"):
            decode(msgpack.unpackb(msgpack.packb(raw)), entry_bytes_max=1000)
        assert _exploded == []

    def test_ours_stops_at_one_in_the_own_log(self, clock: VirtualClock) -> None:
        """It is neither executed nor skipped: a newer version may know what it means."""
        journal = MemoryJournal()
        journal.add(b"\x01", 1, 0)
        journal.add(b"\x00" + pickle.dumps(Bomb("log")), 2, 1)
        journal.setRaftCommitIndex(2)
        follower = kernel("n1", TWO, clock=clock, journal=journal)
        with pytest.raises(EngineFailure, match="log entry 2 is of a type"):
            follower.tick()
        assert _exploded == []

    def test_ours_refuses_an_entry_that_would_travel_in_pieces(self, clock: VirtualClock) -> None:
        """The bound is checked where the host proposes."""
        host = RecordingHost()
        alone = kernel("n1", (), clock=clock, host=host, max_entry_bytes=1000)
        clock.now += 1
        alone.tick()
        host.queue.append(bytes(1001))
        with pytest.raises(EngineFailure, match="the limit is 1000"):
            alone.tick()

    def test_entries_of_the_largest_size_travel_whole(self, clock: VirtualClock) -> None:
        """Several of them, to a peer that was away."""
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, host=host, max_entry_bytes=1000)
        lead(leader, clock, "n2")
        host.queue.extend([bytes(1000)] * 5)
        leader.tick()
        sent = [m for p, m in say(leader) if p == "n2" and isinstance(m, Append)]
        commands = [command for m in sent for _, command in m.entries]
        assert commands == [ENTRY_OWN + bytes(1000)] * 5
        assert leader.stats.dropped == {}


class TestD35StaleStamps:
    """A command is stamped and queued on a leader that is deposed before it appends it."""

    def test_stock_forwards_it_as_it_is(self, clock: VirtualClock) -> None:
        """The new leader appends the old leader's idea of now."""
        leader = stock("n1", TWO, clock=clock)
        lead_stock(leader, clock, "n2")
        leader.put("stamped at 12:00")
        leader.receive("n3", stock_append(1, 1, term=9))
        leader.take()
        leader.tick()
        assert [message["type"] for _, message in leader.take()] == ["apply_command"]

    def test_ours_is_not_even_stamped(self, clock: VirtualClock) -> None:
        """The host is asked only in the step that appends, in the term of the entry."""
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, host=host)
        lead(leader, clock, "n2")
        host.asked_in_terms.clear()
        host.queue.append(b"stamped now")
        leader.receive("n3", append(1, 1, term=9))
        leader.tick()
        assert host.asked_in_terms == []
        assert list(host.queue) == [b"stamped now"]
        assert not [m for _, m in say(leader) if isinstance(m, Append)]

    def test_the_host_knows_of_its_leadership_before_it_is_asked(self, clock: VirtualClock) -> None:
        """So it can begin to account time at the right moment."""
        host = RecordingHost()
        order: list[str] = []
        host.on_leader = lambda leader, _term: order.append(f"leader {leader}")  # type: ignore[method-assign]
        host.next_batch = lambda term: order.append(f"asked in {term}")  # type: ignore[method-assign]
        alone = kernel("n1", (), clock=clock, host=host)
        clock.now += 1
        alone.tick()
        assert order == ["leader None", "leader n1", "asked in 1"]


class TestD7CommitIndexBeyondTheLog:
    """The commit index reached the disk, the entries did not."""

    def _journal(self, commit_index: Callable[[MemoryJournal], int]) -> MemoryJournal:
        class Lying(MemoryJournal):
            def getRaftCommitIndex(self) -> int:
                return commit_index(self)

        journal = Lying()
        for index in range(1, 11):
            journal.add(b"\x01", index, 0)
        journal.setRaftCommitIndex(30)
        return journal

    def test_stock_commits_alone(self, clock: VirtualClock) -> None:
        """A leader answers its clients without any acknowledgement."""
        leader = stock("n1", TWO, clock=clock, journal=self._journal(lambda _journal: 30))
        lead_stock(leader, clock, "n2")
        leader.put("alone")
        leader.tick()
        leader.tick()
        assert leader.applied == ["alone"]

    def test_ours_waits_for_a_majority(self, clock: VirtualClock) -> None:
        """Whatever the journal says."""
        host = RecordingHost()
        leader = kernel(
            "n1", TWO, clock=clock, journal=self._journal(lambda _journal: 30), host=host
        )
        assert leader.commit_index == 10
        lead(leader, clock, "n2")
        host.queue.append(b"alone")
        leader.tick()
        say(leader)
        leader.tick()
        assert host.payloads == []


class TestD22BacktrackingOneIndexAProbe:
    """A follower has 200 entries of a leader that has gone."""

    def test_ours_is_corrected_in_two_answers(self, clock: VirtualClock) -> None:
        """The answer names the beginning of the conflicting term, not the index before."""
        follower = kernel("n1", TWO, clock=clock)
        follower.receive("n2", append(1, 3, commit=3))
        follower.receive("n2", append(3, 203, term=2, prev_term=1))
        say(follower)
        follower.receive("n3", append(150, 151, term=4, prev_term=3))
        assert say(follower) == [("n3", Ack(4, 4, False, True, 1))]

    def test_stock_goes_back_by_one(self, clock: VirtualClock) -> None:
        """One index for each round trip and heartbeat."""
        follower = stock("n1", TWO, clock=clock)
        follower.receive("n2", stock_append(1, 3, commit=3))
        follower.receive("n2", stock_append(3, 203, term=2, prev_term=1))
        follower.take()
        follower.receive("n3", stock_append(150, 151, term=4, prev_term=3))
        assert follower.take()[-1][1]["next_node_idx"] == 150


class TestD30TheClockRunsInSuspend:
    """Election times and stamps use the clock that the engine gives."""

    def test_ours_uses_the_given_clock(self, clock: VirtualClock) -> None:
        """No time passes for a node unless its clock says so."""
        alone = kernel("n1", (), clock=clock)
        for _ in range(10):
            alone.tick()
        assert not alone.is_leader
        clock.now += 3600
        alone.tick()
        assert alone.is_leader

    def test_the_engines_clock_is_boottime(self) -> None:
        """On a system that has it."""
        import time

        from holdfast_coordinator.raft.engine import boot_clock

        if not hasattr(time, "CLOCK_BOOTTIME"):
            pytest.skip("no CLOCK_BOOTTIME here")
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before <= boot_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


class TestNeedlessRounds:
    """What costs a sync, a frame or a wake, and changes nothing, is left out."""

    def test_an_empty_append_behind_an_acknowledgement_is_not_answered(
        self, clock: VirtualClock
    ) -> None:
        """It only says how far the log is committed. A heartbeat, later, is answered."""
        follower = kernel("n1", TWO, clock=clock)
        follower.receive("n2", append(1, 3))
        say(follower)
        clock.now += 0.01
        assert follower.receive("n2", append(3, 3, commit=3, stamp=2))
        assert say(follower) == []
        assert follower.commit_index == 3
        clock.now += 0.1
        follower.receive("n2", append(3, 3, commit=3, stamp=3))
        assert say(follower) == [("n2", ack(4, term=1, stamp=3))]

    def test_after_a_new_connection_it_is_answered(self, clock: VirtualClock) -> None:
        """The acknowledgement before may be lost."""
        follower = kernel("n1", TWO, clock=clock)
        follower.receive("n2", append(1, 3))
        say(follower)
        follower.peer_connected("n2")
        follower.receive("n2", append(3, 3, commit=3, stamp=2))
        assert say(follower) == [("n2", ack(4, term=1, stamp=2))]

    def committing(
        self, clock: VirtualClock, *, is_waited_for: bool = True
    ) -> tuple[Kernel, RecordingHost]:
        """A leader that has committed and applied entry 3 in its last tick, and has told nobody."""
        host = RecordingHost()
        host.is_waited_for = is_waited_for
        leader = kernel("n1", TWO, clock=clock, host=host)
        lead(leader, clock, "n2")
        host.queue.append(b"x")
        leader.tick()
        stamp = max(m.stamp for _, m in say(leader) if isinstance(m, Append))
        leader.receive("n2", ack(4, term=leader.term, stamp=stamp))
        leader.tick()
        assert host.payloads == [b"x"]
        assert say(leader) == []
        return leader, host

    def test_what_is_proposed_next_says_what_was_committed(self, clock: VirtualClock) -> None:
        """A caller who was answered asks again at once: one append for each peer says both."""
        leader, host = self.committing(clock)
        host.queue.append(b"y")
        leader.tick()
        said = [(peer, m.commit_index, len(m.entries)) for peer, m in say(leader)]
        assert said == [("n2", 3, 1), ("n3", 3, 1)]
        leader.tick()
        assert say(leader) == []

    @pytest.mark.parametrize("handing_over", [False, True])
    def test_when_nothing_is_proposed_it_is_told_in_the_next_round(
        self, clock: VirtualClock, handing_over: bool
    ) -> None:
        """No later where a caller of another node waits for it. Also by a leader that proposes nothing more."""
        leader, _ = self.committing(clock)
        assert (leader.next_deadline() or 0) <= clock.now
        if handing_over:
            assert leader.hand_over()
            leader._raft._SyncObj__newAppendEntriesTime = clock.now + 9  # nothing else is a reason
        leader.tick()
        told = [m for _, m in say(leader) if isinstance(m, Append)]
        assert [(m.commit_index, len(m.entries)) for m in told] == [(3, 0)] * 2
        assert (leader.next_deadline() or 0) > clock.now

    def test_when_nobody_waits_for_it_there_it_is_told_a_moment_later(
        self, clock: VirtualClock
    ) -> None:
        """The next round may come at once, and has nothing to say; two milliseconds later it is said, whether anything is
        proposed or not."""
        leader, _ = self.committing(clock, is_waited_for=False)
        leader.tick()
        assert say(leader) == []
        told_by = leader.next_deadline() or 0
        assert clock.now < told_by <= clock.now + COMMIT_TOLD_WITHIN_SECONDS
        clock.now = told_by
        leader.tick()
        told = [m for _, m in say(leader) if isinstance(m, Append)]
        assert [(m.commit_index, len(m.entries)) for m in told] == [(3, 0)] * 2
        assert (leader.next_deadline() or 0) > told_by

    def test_a_follower_answers_its_leader_before_it_applies(self, clock: VirtualClock) -> None:
        """Callers wait for the answer, and the leader for nothing else. It applies in the same round all the same."""
        host = RecordingHost()
        follower = kernel("n1", TWO, clock=clock, host=host)
        follower.receive("n2", append(1, 3, commit=3))
        follower.tick()
        assert host.applied == []
        applied_when_said: list[int] = []
        follower.release(lambda _peer, _messages: applied_when_said.append(len(host.applied)))
        assert applied_when_said == [0]
        assert [index for index, _, _ in host.applied] == [2, 3]

    def test_only_an_acknowledgement_of_what_is_committed_needs_no_tick(
        self, clock: VirtualClock
    ) -> None:
        """The first follower's word commits an entry; the second's only moves its own index."""
        host = RecordingHost()
        leader = kernel("n1", TWO, clock=clock, host=host)
        lead(leader, clock, "n2")
        host.queue.append(b"x")
        leader.tick()
        stamp = max(m.stamp for _, m in say(leader) if isinstance(m, Append))
        assert leader.receive("n2", ack(4, term=leader.term, stamp=stamp)) is True
        leader.tick()
        assert leader.receive("n3", ack(4, term=leader.term, stamp=stamp)) is False
        assert leader.match_index == {"n2": 3, "n3": 3}
        assert leader.receive("n3", VoteRequest(leader.term + 1, 9, 9)) is True


def test_two_leaders_in_one_term_stop_the_node() -> None:
    """It proves that a vote was lost; nothing that follows could be trusted."""
    follower = kernel("n1", TWO, clock=VirtualClock())
    follower.receive("n2", append(1, 2))
    with pytest.raises(EngineFailure, match="both lead term 1"):
        follower.receive("n3", append(1, 2))


def test_a_follower_never_asks_its_host() -> None:
    """Only a leader proposes."""
    three = Shielded()
    leader = three.elect()
    three.cluster.run_for(2)
    asked = functools.reduce(
        lambda total, name: total + len(three.hosts[name].asked_in_terms) * (name != leader),
        three.names,
        0,
    )
    assert asked == 0
