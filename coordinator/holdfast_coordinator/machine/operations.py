"""What can be asked of the machine, and in what envelope it travels. Plain values: no behaviour.

Every operation is addressed by its origin, so that it acts once however often it is forwarded, and so that the node whose
caller waits can find the outcome in its own apply.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from .values import value

Mode = Literal["exclusive", "shared"]
OnUnclean = Literal["grant", "delay", "refuse"]


@value
class Terms:
    """On what terms a hold stands; part of the request, kept by waiter and hold.

    `mode` shared without `limit`: any number of shared holds at once. With `limit`: a semaphore of so many permits; while the
    key is in use, its limit belongs to it, and a request with another one (or none) is a conflict. `on_unclean`: what becomes
    of the keys when the hold ends other than by its holder's will: open at once, closed for `delay_ms`, or closed until
    somebody resolves it. `require_clean`: this request is refused rather than granted on a key whose last hold ended uncleanly.
    """

    mode: Mode = "exclusive"
    limit: int | None = None
    on_unclean: OnUnclean = "grant"
    delay_ms: int = 0
    require_clean: bool = False


PLAIN: Final = Terms()
"""An exclusive lock and nothing else: what almost every request asks for, compared by identity where it saves time."""


class Origin(NamedTuple):
    """Where an operation entered the cluster. `sequence` counts 1, 2, 3, ... within one boot of one node, without gaps."""

    node: str
    boot: int
    sequence: int


@value
class OpenSession:
    session: str
    ttl_ms: int
    owner: str | None = None


@value
class RenewSession:
    session: str


@value
class CloseSession:
    session: str


@value
class Acquire:
    """Ask for holds on all of `keys` or none, on these `terms`. `ttl_ms` set: `session` names an implicit session that is made
    for this request (its lease starts at the grant). `ttl_ms` None: `session` must be open. `request_id` None: the request has
    no name and cannot be repeated. `settled`: integer request ids at or below it are never executed again in this session.
    `context` names one task or thread of the session: a wait that would close a circle of such tasks is refused as a deadlock."""

    keys: tuple[str, ...]
    session: str
    ttl_ms: int | None = None
    wait_ms: int = 0
    request_id: int | str | None = None
    settled: int | None = None
    owner: str | None = None
    context: str | None = None
    terms: Terms = PLAIN


@value
class Release:
    session: str
    token: int


@value
class Complete:
    """End the hold and remember `result` as the answer for whoever asks for its keys within `retain_ms`."""

    session: str
    token: int
    result: str
    retain_ms: int


@value
class Checkpoint:
    """The holder notes how far it has come. The note stays with the keys until a hold of theirs ends cleanly. `number` counts the
    notes of one hold: one that does not rise above the last is late, and changes nothing."""

    session: str
    token: int
    value: str
    number: int | None = None


@value
class ForceRelease:
    """An operator ends the holds of `key`. `token` set: only if that one is (or was, by force) the hold of it."""

    key: str
    token: int | None
    reason: str
    operator: str


@value
class Resolve:
    """An operator opens a key that was closed by the hold of `token`: in doubt, delayed, or done."""

    key: str
    token: int
    reason: str
    operator: str


@value
class Cancel:
    """The client gives up the acquire of this name: its waiter is removed, its hold (if it was granted) is released."""

    session: str
    request_id: int | str


@value
class Withdraw:
    """A node says that the caller who asked as `attachment` has gone: removes the waiter that is still attached there, and
    nothing else. The waiter's own origin is told `Withdrawn` too. Its name (if it had one) is free to be asked again."""

    attachment: Origin


@value
class Barrier:
    """Changes nothing; its outcome tells its node that everything acknowledged before is applied (a linearizable read follows)."""


@value
class Malformed:
    """What the codec makes of an operation that it cannot read; the machine refuses it."""

    reason: str


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


@value
class Entry:
    """One log entry: a batch, stamped by its leader in the step that appended it."""

    term: int
    elapsed_ms: int
    operations: tuple[tuple[Origin, Operation], ...] = ()
    wall_ms: int = 0
    """What the leader's wall clock said (Unix milliseconds): written into the trail for people, never compared with anything."""
