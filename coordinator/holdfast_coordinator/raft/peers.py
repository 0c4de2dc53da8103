"""Which data directory each node of the cluster has: a node whose disk was lost is not taken for itself (D37).

    time 0   entry E is acknowledged by L and F, and so committed; G is cut off
    time 1   F's disk is lost; F comes back empty, under its old name
    time 2   L dies. F, which has forgotten E and its votes, and G elect G: E is gone

The rules:
* Nodes tell each other the id of their directory in the handshake, and each keeps on disk whose id it
  knows. Another id is refused, by every node, whatever flags the newcomer was started with.
* The first ids are trusted only while the cluster is being founded (`bootstrap`), and a founder neither
  votes nor stands before it has met every other node and both have accepted each other. So whoever votes
  refuses every replaced directory.
* `replace-node` puts an admission (node, new id) into the log. From the moment it stands in a node's log
  the old directory is refused there; from the moment it is committed the new one is accepted.
* Founders that were restored from a backup must have been given the same state: a digest of it goes into what they tell of
  themselves until the cluster is founded, and another one is refused.
* An admitted node's acknowledgements count only once it has the admission itself, which is then committed
  without it; and it votes only in terms after the one in which it learnt that. docs/engine.md has the proof.

    peers    one line of JSON and its CRC-32C: whether we are founding, whom we know, from which term we vote, and
             (after a restore) with which state we began

Not known here: connections, messages, and what else is in the log. All in one thread.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from holdfast_coordinator.raft.disk import read_file, replace_file
from holdfast_coordinator.raft.errors import EngineFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from holdfast_coordinator.raft.disk import Directory

PEERS_NAME = "peers"
FORMAT_VERSION = 1
ID_BYTES = 16
DIGEST_BYTES = 16
BOOTS_PER_ENTRY = 1024
"""Room for so many starts of a directory for each entry that the log grew by: a node that comes up writes an entry each time, and
product and sum stay exact in JSON for eight million million entries."""

NEWCOMER, FOUNDER, MEMBER = 0, 1, 2
"""What a node says of itself: nobody has admitted it; the cluster is being founded; it belongs."""

ACCEPTED = "accepted"
ANOTHER_DIRECTORY = "another data directory"
NEW_DIRECTORY = "new data directory"
OTHER_LIMITS = "other limits"
VERDICTS = frozenset({ACCEPTED, ANOTHER_DIRECTORY, NEW_DIRECTORY, OTHER_LIMITS})


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a node tells of itself in its hello. `limits` is a digest: nodes whose machines decide
    differently must not apply one log."""

    directory: bytes = bytes(ID_BYTES)
    limits: bytes = bytes(DIGEST_BYTES)
    state: int = MEMBER


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to an introduction. `admission`: index of the entry that admitted the directory; 0 for a
    founder's."""

    code: str = ACCEPTED
    admission: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """A directory that belongs to the cluster. `admission` as in `Verdict`."""

    directory: str
    admission: int


class PeerBook:
    """What one node knows of all. Every change is on disk before the call returns.

    `retiring` names nodes whose replacement stands in our log, committed or not; the kernel keeps it.
    """

    def __init__(
        self,
        files: Directory,
        *,
        node: str,
        directory: str,
        members: Iterable[str],
        limits: bytes = bytes(DIGEST_BYTES),
    ) -> None:
        self.node = node
        self.directory = directory
        self.founding = False
        self.known: dict[str, Known] = {}
        self.retiring: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        """Directories with which members came and were refused: what an operator may admit."""
        self._files = files
        self._members = frozenset(members)
        self._limits = limits
        self._votes_above: int | None = None
        self._start = ""

    @classmethod
    def found_from(
        cls, files: Directory, *, node: str, directory: str, members: Iterable[str], start: bytes
    ) -> None:
        """Write the file of a founder that was given a state to begin with; `start` is its digest. Raises EngineFailure."""
        book = cls(files, node=node, directory=directory, members=members)
        book._start = start.hex()
        book._begin_founding()
        book._save()

    @classmethod
    def open(
        cls,
        files: Directory,
        *,
        node: str,
        directory: str,
        members: Sequence[str],
        limits: bytes = bytes(DIGEST_BYTES),
        bootstrap: bool,
    ) -> PeerBook:
        """Read it, or begin it: as a founder if `bootstrap`, else as one whom the others must admit. To be
        called before the journal is made. Raises EngineFailure with a sentence."""
        book = cls(files, node=node, directory=directory, members=members, limits=limits)
        try:
            names = files.names()
            if PEERS_NAME in names:
                book._load()
                return book
            # A journal without this file is of a version that did not have it, and has forgotten nothing.
            has_journal = any(name.startswith("journal-") for name in names)
            if bootstrap or has_journal:
                book._begin_founding()
            book._save()
        except OSError as error:
            raise EngineFailure(f"{files.path / PEERS_NAME} cannot be used: {error}") from error
        return book

    # What it says.

    @property
    def is_complete(self) -> bool:
        """Whether every node of the configuration has a known directory."""
        return self._members <= self.known.keys()

    @property
    def is_admitted(self) -> bool:
        """Whether this node's own directory belongs to the cluster, as far as it knows."""
        return self.node in self.known

    def may_vote(self, term: int) -> bool:
        """Whether this node's vote counts in `term`: no earlier life of it can have voted there."""
        own = self.known.get(self.node)
        if own is None or not self.is_complete:
            return False
        return own.admission == 0 or (self._votes_above is not None and term > self._votes_above)

    def counts(self, peer: str, index: int, commit_index: int) -> bool:
        """Whether a leader may count the peer's acknowledgement of everything up to `index`."""
        known = self.known.get(peer)
        if known is None or peer in self.retiring:
            return False
        return known.admission <= min(index, commit_index) or known.admission == 0

    def boot(self, opened: int) -> int:
        """The number of this life of the node among all, whatever directories it had; `opened`: how often this one was opened.

        time 0: n1 answers operation (n1, boot 1, sequence 7). time 1: its disk is lost, and the new one is opened for the first
        time. time 2: n1 reads the log, and finds the outcome of (1, 7), which must not answer the seventh caller of this life.
        So an admitted directory counts on from its admission, which lies behind everything that earlier ones said.
        """
        own = self.known.get(self.node)
        return (0 if own is None else own.admission) * BOOTS_PER_ENTRY + opened

    def admissions(self) -> list[tuple[str, int, str]]:
        """(node, index, directory) of everybody who was admitted after the founding."""
        return [
            (name, known.admission, known.directory)
            for name, known in sorted(self.known.items())
            if known.admission > 0
        ]

    # Meeting.

    def introduce(self) -> Introduction:
        """What to tell a peer."""
        state = FOUNDER if self.founding else MEMBER if self.is_admitted else NEWCOMER
        return Introduction(bytes.fromhex(self.directory), self._limits_told(state), state)

    def judge(self, peer: str, theirs: Introduction) -> Verdict:
        """Whether the peer is the one that we know. Changes nothing but `refused`."""
        if theirs.limits != self._limits_told(theirs.state):
            return Verdict(OTHER_LIMITS)
        directory = theirs.directory.hex()
        known = self.known.get(peer)
        if known is None:
            return self._judge_stranger(peer, theirs, directory)
        if known.directory == directory and peer not in self.retiring:
            return Verdict(ACCEPTED, known.admission)
        if known.directory != directory:
            self.refused[peer] = directory
        return Verdict(ANOTHER_DIRECTORY)

    def _judge_stranger(self, peer: str, theirs: Introduction, directory: str) -> Verdict:
        own = self.known.get(self.node)
        if self.founding and theirs.state != NEWCOMER:
            return Verdict()
        is_admitted_late = not self.founding and (own is None or own.admission > 0)
        if is_admitted_late and theirs.state == MEMBER:
            return Verdict()  # it has not met all yet, and relies on the members' judgement
        self.refused[peer] = directory
        return Verdict(NEW_DIRECTORY)

    def met(self, peer: str, theirs: Introduction, verdict: Verdict) -> None:
        """Both have accepted each other; `verdict` is the peer's. Raises EngineFailure."""
        before = self._fields()
        own = self.known.get(self.node)
        if verdict.admission > (0 if own is None else own.admission):
            self._become_admitted(verdict.admission)
        if peer not in self.known:
            self.known[peer] = Known(theirs.directory.hex(), 0)
        self._leave_founding_if_complete()
        if self._fields() != before:
            self._save()

    # What the log says.

    def admit(self, name: str, index: int, directory: str) -> bool:
        """Entry `index`, which is committed, gives `name` another directory. Whether that is news. Raises
        EngineFailure if it is our name and not our directory: then our place has been taken."""
        known = self.known.get(name)
        if known is not None and index <= known.admission:
            return False
        if name == self.node:
            if directory != self.directory:
                raise EngineFailure(
                    f"node {name} was replaced: another data directory was admitted in the place of "
                    f"{self._files.path}; this one may be deleted"
                )
            self._become_admitted(index)
        else:
            self.known[name] = Known(directory, index)
        if self.refused.get(name) == directory:
            del self.refused[name]
        self._save()
        return True

    def caught_up(self, commit_index: int, term: int) -> None:
        """An admitted node that has its own admission, committed: it has forgotten nothing that counts, and
        votes from the next term on."""
        own = self.known.get(self.node)
        if own is None or self._votes_above is not None or not 0 < own.admission <= commit_index:
            return
        self._votes_above = term
        self._save()

    # Leaves.

    def _limits_told(self, state: int) -> bytes:
        """What a node in this state tells as its limits. With a founder's goes the state that it was restored with: it is a
        difference of the same kind, and whoever has left the founding has been found equal in both."""
        if state != FOUNDER or not self._start:
            return self._limits
        told = self._limits + bytes.fromhex(self._start)
        return hashlib.blake2b(told, digest_size=DIGEST_BYTES).digest()

    def _begin_founding(self) -> None:
        self.founding = True
        self.known[self.node] = Known(self.directory, 0)
        self._leave_founding_if_complete()

    def _become_admitted(self, index: int) -> None:
        self.known[self.node] = Known(self.directory, index)
        self.founding = False
        self._votes_above = None

    def _leave_founding_if_complete(self) -> None:
        if self.founding and self.is_complete:
            self.founding = False

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "founding": self.founding,
            "known": {
                name: [known.directory, known.admission]
                for name, known in sorted(self.known.items())
            },
            "votes_above": self._votes_above,
        }
        return fields | {"start": self._start} if self._start else fields

    def _save(self) -> None:
        line = json.dumps(self._fields(), sort_keys=True).encode()
        try:
            replace_file(self._files, PEERS_NAME, b"%s %08x\n" % (line, crc32c(line)))
        except OSError as error:
            raise EngineFailure(
                f"{self._files.path / PEERS_NAME} cannot be written: {error}"
            ) from error

    def _load(self) -> None:
        where = self._files.path / PEERS_NAME
        line, _, check = read_file(self._files, PEERS_NAME).rstrip(b"\n").rpartition(b" ")
        if check != b"%08x" % crc32c(line):
            raise EngineFailure(
                f"{where} does not check; without it this node does not know whom it may trust. Restore "
                "it from a copy of this very directory, or put the node back as a new one with an empty "
                "data directory"
            )
        fields = json.loads(line)
        if fields["format"] > FORMAT_VERSION:
            raise EngineFailure(
                f"{where} has format {fields['format']}, this program knows formats up to "
                f"{FORMAT_VERSION}; start the newer version of holdfast that wrote it"
            )
        self.founding = fields["founding"]
        self.known = {name: Known(*known) for name, known in fields["known"].items()}
        self._votes_above = fields["votes_above"]
        self._start = fields.get("start", "")


def is_founded(path: Path) -> bool:
    """Whether the data directory at `path` belongs to a cluster that is complete, or waits to be admitted
    by one. False: it is missing, or still being founded. For whoever is about to start all nodes of a
    cluster; reads without a lock."""
    try:
        line = (path / PEERS_NAME).read_bytes().rpartition(b" ")[0]
        return not json.loads(line)["founding"]
    except FileNotFoundError:
        return (path / "identity.json").exists()
    except (ValueError, KeyError, OSError):
        return True  # the node itself says what is wrong with it


def advice(node: str, code: str) -> str:
    """What a refused node tells its operator."""
    match code:
        case "another data directory" | "new data directory":
            return (
                f"the data directory of {node} is not the one that the cluster knows. Give it back, if it "
                f"still exists; if it is lost, run: holdfast replace-node {node}. (A cluster that never "
                "ran is founded by starting all its nodes with: holdfast serve --bootstrap)"
            )
        case "other limits":
            return (
                f"{node} runs with other machine limits, or was restored from another backup or in another way; all "
                "nodes need the same `limits` and `quotas`, and the same restore"
            )
    return "it does not say why"
