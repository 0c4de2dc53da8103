"""What Raft promises, checked after every event of a simulated run.

One leader a term; log matching; leader completeness; the same state at the same index on every node; term,
commit and applied index only rise; a committed entry is on a majority of DISKS, and nobody who has it cuts it away; an
acknowledged entry is on the disk of the node that acknowledged it, and there at its next start; what the journal calls durable is
what a power loss would leave; one vote a term and node across restarts; tokens rise.

Rule: it watches through the journal, the host and the messages that leave, and changes nothing. `violations`
are sentences; an empty list is the only good one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.machine.outcomes import Granted, Queued
from holdfast_coordinator.raft import shield
from holdfast_coordinator.raft.messages import (
    ENTRY_ADMIT,
    Ack,
    Append,
    Vote,
    VoteRequest,
    parse_admission,
)
from holdfast_jepsen.checker.watched_host import WatchedHost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.machine import Origin
    from holdfast_coordinator.machine.outcomes import Outcome
    from holdfast_coordinator.node import Node
    from holdfast_jepsen.sim.engine import SimEngine
    from holdfast_jepsen.sim.server import Server

VIOLATIONS_MAX = 20
FIRST_INDEX = 1
"""Every log begins with this entry, by construction and not by agreement."""


@dataclass(frozen=True, slots=True)
class _Log:
    """What a disk has of a log: the terms of the entries from `first` on, and a snapshot of all up to `snapshot`."""

    first: int = 0
    terms: Sequence[int] = ()
    snapshot: int = 0

    def has(self, index: int, term: int) -> bool:
        """The entry of this term, or a snapshot in its place."""
        place = index - self.first
        return index <= self.snapshot or (
            0 <= place < len(self.terms) and self.terms[place] == term
        )


@dataclass(slots=True)
class _Node:
    """What is known of one machine, across its lives."""

    term: int = 0
    commit: int = 0
    applied: int = 0
    durable: _Log = _Log()
    """Of its disk, while no process runs on it."""
    promised_term: int = 0
    """The highest term that it told anybody."""
    acknowledged: tuple[int, int] = (0, 0)
    """(index, term of that entry): said to be on disk in the newest acknowledgement."""
    was_leader_in: int = -1
    replaced: set[str] = field(default_factory=set)
    """Peers whose disk was lost since it began to lead: it learns of that in its own time (D37)."""
    matches: dict[str, int] = field(default_factory=dict)
    """What it counted its peers to have, when it last led."""


class RaftInvariants:
    """Of one run."""

    def __init__(self, names: Sequence[str], note: Any) -> None:
        self.violations: list[str] = []
        self.commands: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.leaders: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        """(node, term) -> for whom, as its present disk knows."""
        self.lost_votes: dict[tuple[str, int], str] = {}
        """The same of disks that were lost."""
        self.admitted_in: dict[str, int] = {}
        """Node -> the term of the entry that admitted its present disk."""
        self.committed: dict[int, int] = {}
        """Index -> term, for every entry that any node has called committed."""
        self.highest_committed = 0
        self.states: dict[int, bytes] = {}
        self.tokens: dict[int, tuple[str, tuple[str, ...]]] = {}
        self.last_token = 0
        self.waiting_since: dict[Origin, int] = {}
        """Who stands in a queue now, and when that was first applied anywhere."""
        self.waited_since: dict[int, int] = {}
        """Of each token that was waited for."""
        self.servers: dict[str, Server] = {}
        self._nodes = {name: _Node() for name in names}
        self._majority = len(names) // 2 + 1
        self._note = note

    def violated(self, what: str) -> None:
        """Remember a violation."""
        if len(self.violations) < VIOLATIONS_MAX and what not in self.violations:
            self.violations.append(what)
            self._note(f"VIOLATION {what}")

    # Lives.

    def host(self, server: Server, node: Node) -> WatchedHost:
        """Stands between the engine and a node."""
        return WatchedHost(self, server, node)

    def begin_life(self, server: Server) -> None:
        """Commit and applied index begin again; the rest does not."""
        known = self._nodes[server.name]
        known.term = known.commit = known.applied = 0
        known.was_leader_in = -1

    def after_start(self, server: Server) -> None:
        """The disk still has what was promised."""
        assert server.engine is not None
        kernel, journal = server.engine.kernel, server.engine.journal
        if kernel is None or journal is None:
            return
        known = self._nodes[server.name]
        if kernel.term < known.promised_term:
            self.violated(
                f"{server.name} started in term {kernel.term}, and had spoken in {known.promised_term}"
            )
        vote = self.votes.get((server.name, journal.getCurrentTerm()))
        if vote is not None and journal.getVotedForNodeId() != vote:
            self.violated(
                f"{server.name} voted for {vote} in term {journal.getCurrentTerm()} and, after a "
                f"start, knows of {journal.getVotedForNodeId()}"
            )
        index, term = known.acknowledged
        if (journal[-1][2], kernel.last_index) < (term, index):
            self.violated(
                f"{server.name} acknowledged entry {index} and started with {kernel.last_index}"
            )
        elif index >= journal[0][1] and index <= kernel.last_index:
            found = shield.term_at(journal, index)
            if found < term:
                self.violated(
                    f"{server.name} acknowledged entry {index} of term {term}, has {found}"
                )

    def forget(self, name: str) -> None:
        """Its disk was lost, and with it what it had promised. Its votes it must not give again all the same, unless in a term
        after that of its admission, where nobody can win by the lost one any more (docs/engine.md has the proof)."""
        self._nodes[name] = _Node()
        self.admitted_in.pop(name, None)
        for node, term in list(self.votes):
            if node == name:
                self.lost_votes[node, term] = self.votes.pop((node, term))
        for known in self._nodes.values():
            known.replaced.add(name)

    def end_life(self, server: Server) -> None:
        """Its process dies; what is on its disk is remembered."""
        engine = server.engine
        if engine is not None and engine.journal is not None and engine.kernel is not None:
            self._nodes[server.name].durable = _on_disk(engine, engine.journal[0][1])

    # What happens.

    def on_append(
        self, node: str, index: int, term: int, command: bytes, previous: int | None
    ) -> None:
        """Log matching: one index and term is one command, after the same entry."""
        if previous is None:
            return  # the first of a log, or what stands there in place of a snapshot
        known = self.commands.setdefault((index, term), (command, previous))
        if command[:1] == ENTRY_ADMIT:
            self.admitted_in.setdefault(parse_admission(command)[0], term)
        if known[0] != command:
            self.violated(f"{node} has another entry {index} of term {term} than somebody else")
        elif known[1] != previous:
            self.violated(f"{node} has entry {index} of term {term} after one of term {previous}")

    def on_cut(self, node: str, index: int, term: int) -> None:
        """Somebody drops its entries from this one on, for the sake of a leader that has others."""
        if self.committed.get(index) == term:
            self.violated(f"{node} cut away entry {index} of term {term}, which was committed")

    def on_synced(self, node: str, name: str, *, is_on_disk: bool) -> None:
        """The journal takes this file for written: a loss of power now must leave what the process sees."""
        if not is_on_disk:
            self.violated(f"{node} takes {name} for synced, and its disk has something else")

    def on_send(self, server: Server, peer: str, messages: Sequence[Any]) -> None:
        """What a node promises to others."""
        engine = server.engine
        if engine is None or engine.journal is None or engine.kernel is None:
            return
        known = self._nodes[server.name]
        for message in messages:
            if isinstance(message, Ack | Append | Vote | VoteRequest):
                known.promised_term = max(known.promised_term, message.term)
            if isinstance(message, Ack):
                if message.success:
                    self._on_ack(server, message)
            elif isinstance(message, Vote):
                self._on_vote(server.name, message.term, peer)
            elif isinstance(message, VoteRequest):
                self._on_vote(server.name, message.term, server.name)
            elif isinstance(message, Append):
                self._on_leader(server.name, message.term)

    def _on_ack(self, server: Server, ack: Ack) -> None:
        assert server.engine is not None
        journal = server.engine.journal
        assert journal is not None
        index = ack.next_index - 1
        if index > journal.durable_index:
            self.violated(
                f"{server.name} acknowledged entry {index}; its disk has {journal.durable_index}"
            )
        elif index >= journal[0][1]:
            known = self._nodes[server.name]
            known.acknowledged = max(
                known.acknowledged, (index, shield.term_at(journal, index)), key=lambda a: a[::-1]
            )

    def _on_vote(self, node: str, term: int, candidate: str) -> None:
        before = self.votes.setdefault((node, term), candidate)
        if before != candidate:
            self.violated(f"{node} voted for {before} and for {candidate} in term {term}")
        lost = self.lost_votes.get((node, term), candidate)
        if lost != candidate and term <= self.admitted_in.get(node, term):
            self.violated(
                f"{node} voted for {lost}, lost its disk, and voted for {candidate} in term {term}"
            )

    def _on_leader(self, node: str, term: int) -> None:
        before = self.leaders.setdefault(term, node)
        if before != node:
            self.violated(f"{before} and {node} lead term {term}")

    def after_event(self, server: Server) -> None:
        """Everything that can be seen at a node after it did something."""
        engine = server.engine
        if engine is None or engine.kernel is None or engine.failure is not None:
            return
        kernel, known = engine.kernel, self._nodes[server.name]
        term, commit, applied = kernel.term, kernel.commit_index, kernel.applied_index
        leads = kernel.is_leader
        if not leads and term == known.term and commit == known.commit and applied == known.applied:
            return
        if term < known.term or commit < known.commit or applied < known.applied:
            self.violated(
                f"{server.name} went back from term, commit, applied "
                f"{known.term}, {known.commit}, {known.applied} to {term}, {commit}, {applied}"
            )
        if leads and known.was_leader_in != term:
            known.was_leader_in = term
            self._on_leader(server.name, term)
            known.matches = {}
            known.replaced = set()
            self._leader_was_elected(server.name, term)
            self._leader_is_complete(server)
        if leads:
            self._matches_are_true(server, known)
        if commit > known.commit:
            self._on_commit(server, known.commit + 1, commit)
        known.term, known.commit, known.applied = term, commit, applied

    def _leader_was_elected(self, name: str, term: int) -> None:
        votes = sum(
            name in (self.votes.get((each, term)), self.lost_votes.get((each, term)))
            for each in self._nodes
        )
        if votes < self._majority:
            self.violated(f"{name} leads term {term} with {votes} votes")

    def _matches_are_true(self, server: Server, known: _Node) -> None:
        """A leader counts only what its peers have on disk, of its own log."""
        assert server.engine is not None
        kernel, journal = server.engine.kernel, server.engine.journal
        assert kernel is not None
        assert journal is not None
        for peer, index in kernel.match_index.items():
            if index == known.matches.get(peer, 0) or peer in known.replaced:
                continue
            if index < known.matches.get(peer, 0):
                self.violated(
                    f"{server.name} counts less of {peer} than before in term {kernel.term}"
                )
            known.matches[peer] = index
            other = self.servers[peer].engine
            if other is None or other.kernel is None or other.journal is None:
                continue
            if other.kernel.term > kernel.term or index < max(journal[0][1], other.journal[0][1]):
                continue
            term = shield.term_at(journal, index)
            durable = other.journal.durable_index
            if durable < index or shield.term_at(other.journal, index) != term:
                self.violated(
                    f"{server.name} counts entry {index} of {peer} in term {kernel.term}, whose disk has {durable}"
                )

    def _leader_is_complete(self, server: Server) -> None:
        assert server.engine is not None
        journal, kernel = server.engine.journal, server.engine.kernel
        assert journal is not None
        assert kernel is not None
        index = self.highest_committed
        if index < max(journal[0][1], 1):
            return
        expected = self.committed[index]
        if expected > kernel.term:
            return  # a leader of an older term, which nobody follows any more
        if kernel.last_index < index or shield.term_at(journal, index) != expected:
            self.violated(f"{server.name} leads term {kernel.term} without committed entry {index}")

    def _on_commit(self, server: Server, first: int, last: int) -> None:
        assert server.engine is not None
        journal = server.engine.journal
        assert journal is not None
        for index in range(max(first, journal[0][1]), last + 1):
            term = shield.term_at(journal, index)
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = term
            elif known != term:
                self.violated(
                    f"{server.name} committed entry {index} of term {term}; it was of term {known}"
                )
        if last > max(self.highest_committed, FIRST_INDEX):
            self.highest_committed = last
            self._is_on_a_majority_of_disks(last, shield.term_at(journal, last))

    def _is_on_a_majority_of_disks(self, index: int, term: int) -> None:
        count = 0
        for name, other in self.servers.items():
            log = _on_disk(other.engine, index) if other.engine else self._nodes[name].durable
            count += log.has(index, term)
        if count < self._majority:
            self.violated(f"entry {index} of term {term} was committed with {count} copies on disk")

    # What is applied.

    def on_applied(self, server: Server, index: int, payload: bytes, digest: bytes) -> None:
        """The same outcomes and states everywhere."""
        known = self.states.setdefault(index, digest)
        if known != digest:
            self.violated(f"{server.name} is in another state after entry {index} than others")

    def on_wait(self, origin: Origin, outcome: Outcome, now: int) -> None:
        """An outcome, where it is applied first: somebody begins to wait, or waits no more."""
        if isinstance(outcome, Queued):
            self.waiting_since[origin] = now
            return
        since = self.waiting_since.pop(origin, None)
        if since is not None and isinstance(outcome, Granted):
            self.waited_since[outcome.token] = since

    def on_grant(self, grant: Granted) -> None:
        """The first node that applies a grant."""
        known = self.tokens.get(grant.token)
        if known is not None:
            if known != (grant.session, grant.keys):
                self.violated(f"token {grant.token} was granted twice")
            return
        if grant.token <= self.last_token:
            self.violated(f"token {grant.token} was granted after {self.last_token}")
        self.last_token = grant.token
        self.tokens[grant.token] = grant.session, grant.keys


def _on_disk(engine: SimEngine, first: int) -> _Log:
    """What a power loss would leave of the log from this entry on."""
    journal = engine.journal
    if journal is None or not len(journal):
        return _Log()
    newest = None if engine.store is None else engine.store.newest
    first = max(first, journal[0][1])
    begin, end = first - journal[0][1], journal.durable_index + 1 - journal[0][1]
    terms = [term for _, _, term in journal[begin : max(end, begin)]]
    return _Log(first, terms, 0 if newest is None else newest.index)
