"""What can be asked of the machine, and in what envelope it travels. Plain values: no behaviour.

Every operation is addressed by its origin, so that it acts once however often it is forwarded, and so that the node whose
caller waits can find the outcome in its own apply.

Operations are structs of msgspec because they travel: `codec.py` reads them, types and ranges checked, in C. The order of
the fields and the tags are the format; `codec.py` says how it may grow.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta, Struct

from .values import Value

INTEGER_64_MAX: Final = 2**63 - 1
"""Integers beyond it are not ours; refused when read, so that arithmetic stays small."""

REASON_CHARS_MAX: Final = 200
"""A reason is for a human; more would only carry the damage on."""

Integer = Annotated[int, Meta(ge=-INTEGER_64_MAX, le=INTEGER_64_MAX)]

Mode = Literal["exclusive", "shared"]
OnUnclean = Literal["grant", "delay", "refuse"]


class _Travels(Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """`gc=False`: it holds strings, integers and tuples of them, so it is never a part of a circle."""


class Terms(_Travels, frozen=True):
    """On what terms a hold stands; part of the request, kept by waiter and hold.

    `mode` shared without `limit`: any number of shared holds at once. With `limit`: a semaphore of so many permits; while the
    key is in use, its limit belongs to it, and a request with another one (or none) is a conflict. `on_unclean`: what becomes
    of the keys when the hold ends other than by its holder's will: open at once, closed for `delay_ms`, or closed until
    somebody resolves it. `require_clean`: this request is refused rather than granted on a key whose last hold ended uncleanly.
    """

    mode: Mode = "exclusive"
    limit: Integer | None = None
    on_unclean: OnUnclean = "grant"
    delay_ms: Integer = 0
    require_clean: bool = False


PLAIN: Final = Terms()
"""An exclusive lock and nothing else: what almost every request asks for, compared by identity where it saves time."""


class Origin(NamedTuple):
    """Where an operation entered the cluster. `sequence` counts 1, 2, 3, ... within one boot of one node, without gaps."""

    node: str
    boot: int
    sequence: int


class OpenSession(_Travels, tag=1, frozen=True):
    session: str
    ttl_ms: Integer
    owner: str | None = None


class RenewSession(_Travels, tag=2, frozen=True):
    session: str


class CloseSession(_Travels, tag=3, frozen=True):
    session: str


class Acquire(_Travels, tag=4, frozen=True):
    """Ask for holds on all of `keys` or none, on these `terms`. `ttl_ms` set: `session` names an implicit session that is made
    for this request (its lease starts at the grant). `ttl_ms` None: `session` must be open. `request_id` None: the request has
    no name and cannot be repeated. `settled`: integer request ids at or below it are never executed again in this session.
    `context` names one task or thread of the session: a wait that would close a circle of such tasks is refused as a deadlock."""

    keys: tuple[str, ...]
    session: str
    ttl_ms: Integer | None = None
    wait_ms: Integer = 0
    request_id: Integer | str | None = None
    settled: Integer | None = None
    owner: str | None = None
    context: str | None = None
    terms: Terms = PLAIN


class Release(_Travels, tag=5, frozen=True):
    session: str
    token: Integer


class Complete(_Travels, tag=10, frozen=True):
    """End the hold and remember `result` as the answer for whoever asks for its keys within `retain_ms`."""

    session: str
    token: Integer
    result: str
    retain_ms: Integer


class Checkpoint(_Travels, tag=11, frozen=True):
    """The holder notes how far it has come. The note stays with the keys until a hold of theirs ends cleanly. `number` counts the
    notes of one hold: one that does not rise above the last is late, and changes nothing."""

    session: str
    token: Integer
    value: str
    number: Integer | None = None


class ForceRelease(_Travels, tag=12, frozen=True):
    """An operator ends the holds of `key`. `token` set: only if that one is (or was, by force) the hold of it."""

    key: str
    token: Integer | None
    reason: str
    operator: str


class Resolve(_Travels, tag=13, frozen=True):
    """An operator opens a key that was closed by the hold of `token`: in doubt, delayed, or done."""

    key: str
    token: Integer
    reason: str
    operator: str


class Cancel(_Travels, tag=6, frozen=True):
    """The client gives up the acquire of this name: its waiter is removed, its hold (if it was granted) is released."""

    session: str
    request_id: Integer | str


class Withdraw(_Travels, tag=7, frozen=True):
    """A node says that the caller who asked as this origin has gone: removes the waiter that is still attached there, and
    nothing else. The waiter's own origin is told `Withdrawn` too. Its name (if it had one) is free to be asked again."""

    node: str
    boot: Integer
    sequence: Integer


class Barrier(_Travels, tag=8, frozen=True):
    """Changes nothing; its outcome tells its node that everything acknowledged before is applied (a linearizable read follows)."""


class Malformed(_Travels, tag=9, frozen=True):
    """What the codec makes of an operation that it cannot read; the machine refuses it."""

    reason: Annotated[str, Meta(max_length=REASON_CHARS_MAX)]


Operation = (
    OpenSession
    | RenewSession
    | CloseSession
    | Acquire
    | Release
    | Complete
    | Checkpoint
    | ForceRelease
    | Resolve
    | Cancel
    | Withdraw
    | Barrier
    | Malformed
)


class Entry(Value, frozen=True, gc=False):
    """One log entry: a batch, stamped by its leader in the step that appended it."""

    term: int
    elapsed_ms: int
    operations: tuple[tuple[Origin, Operation], ...] = ()
    wall_ms: int = 0
    """What the leader's wall clock said (Unix milliseconds): written into the trail for people, never compared with anything."""
    level: int = 1
    """The format level at which its leader wrote it (`levels.py`)."""
