"""A restore begins the next incarnation: what was granted after the backup is unknown, and all that is new is above it."""

from __future__ import annotations

import random

import pytest

from holdfast.fencing import MemoryGuard, Stale
from holdfast_coordinator.machine import (
    INCARNATION_MAX,
    Acquire,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Granted,
    Limits,
    Machine,
    NoLongerKept,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Quota,
    Refused,
    Release,
    RenewSession,
    Terms,
    begin_incarnation,
    check_invariants,
    incarnation_of,
)

BASE = 1 << 40
WALL_MS = 1_700_000_000_000
LIMITS = Limits(
    quotas=(Quota(prefix="a", holds=3, waiters=3), Quota(owner="olga", sessions=4, waiters=9))
)
TERMS = (
    Terms(),
    Terms("shared"),
    Terms("shared", 2),
    Terms(on_unclean="refuse"),
    Terms(on_unclean="delay", delay_ms=700),
)


class Cluster:
    """A machine, and the log of one node that feeds it."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine(LIMITS)
        self.sequence = 0

    def do(self, operation: Operation, elapsed_ms: int = 0) -> Outcome:
        self.sequence += 1
        origin = Origin("n1", 1, self.sequence)
        entry = Entry(1, elapsed_ms, ((origin, operation),), WALL_MS)
        outcomes = dict(self.machine.apply(entry))
        check_invariants(self.machine)
        return outcomes[origin]

    def grant(self, key: str, session: str, **fields: object) -> Granted:
        outcome = self.do(Acquire((key,), session, **fields))  # type: ignore[arg-type]
        assert isinstance(outcome, Granted), outcome
        return outcome

    def pass_time(self, milliseconds: int) -> None:
        while milliseconds > 0:
            self.machine.apply(Entry(1, min(500, milliseconds)))
            milliseconds -= 500
            check_invariants(self.machine)

    def backup(self) -> bytes:
        return self.machine.snapshot()


def restored(backup: bytes, *, keep_holds: bool, incarnation: int = 1) -> Cluster:
    """As a node of the new cluster reads it: from the bytes that the restore wrote."""
    machine = Machine.restore(backup, LIMITS)
    begin_incarnation(machine, incarnation, keep_holds=keep_holds)
    check_invariants(machine)
    return Cluster(Machine.restore(machine.snapshot(), LIMITS))


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for session in ("a", "b"):
        cluster.do(OpenSession(session, 10_000))
    return cluster


@pytest.mark.parametrize("keep_holds", [True, False])
def test_a_resource_refuses_everything_old_and_nothing_new(
    cluster: Cluster, keep_holds: bool
) -> None:
    """time 0: the backup; time 1: the old cluster goes on granting, and its holders write; time 2: the backup is restored; time 3:
    the new cluster grants, and its holders write; time 4: each fence of the old cluster comes once more."""
    guard = MemoryGuard()
    old = [("k0", cluster.grant("k0", "a").token)]
    backup = cluster.backup()
    cluster.do(CloseSession("a"))
    for number in range(50):
        key = f"k{number % 5}"
        granted = cluster.grant(key, "b")
        guard.raise_floor(key, granted.token)
        old.append((key, granted.token))
        cluster.do(Release("b", granted.token))
    new = restored(backup, keep_holds=keep_holds)
    new.pass_time(11_000)
    new.do(OpenSession("c", 10_000))
    for number in range(5):
        key = f"k{number}"
        granted = new.grant(key, "c")
        assert granted.token > max(token for _, token in old)
        guard.raise_floor(key, granted.token)
    for key, token in old:
        with pytest.raises(Stale):
            guard.raise_floor(key, token)


def test_the_first_token_is_the_first_of_the_incarnation(cluster: Cluster) -> None:
    """And the incarnation is told by it, also when nothing was granted in between."""
    new = restored(cluster.backup(), keep_holds=True, incarnation=3)
    assert incarnation_of(new.machine) == 3
    assert new.grant("k", "a").token == 3 * BASE + 1


@pytest.mark.parametrize("incarnation", [0, 1, INCARNATION_MAX + 1])
def test_an_incarnation_that_could_repeat_a_token_is_refused(
    cluster: Cluster, incarnation: int
) -> None:
    """Not above that of the backup, or beyond what readers of JSON keep exact."""
    backup = restored(cluster.backup(), keep_holds=True).backup()
    machine = Machine.restore(backup)
    with pytest.raises(ValueError, match=f"incarnation {incarnation}"):
        begin_incarnation(machine, incarnation, keep_holds=True)
    assert machine.snapshot() == backup


def test_the_last_incarnation_stays_below_two_to_the_53(cluster: Cluster) -> None:
    new = restored(cluster.backup(), keep_holds=True, incarnation=INCARNATION_MAX)
    assert new.grant("k", "a").token < 1 << 53


def test_kept_holds_stay_and_their_sessions_have_a_whole_lease(cluster: Cluster) -> None:
    """Although little was left of it in the backup; and after that lease the end is an unclean one."""
    token = cluster.grant("k", "a").token
    cluster.pass_time(9_500)
    new = restored(cluster.backup(), keep_holds=True)
    new.pass_time(9_500)
    assert new.machine.is_current("k", token)
    assert isinstance(new.do(Acquire(("k",), "b")), Refused)
    assert not isinstance(new.do(RenewSession("a")), Refused)
    new.pass_time(10_000)
    new.do(OpenSession("c", 10_000))
    granted = new.grant("k", "c")
    assert granted.previous[0] is not None
    assert (granted.previous[0].token, granted.previous[0].ended) == (token, "expired")


def test_dropped_holds_end_as_if_their_session_had_expired(cluster: Cluster) -> None:
    """So their clients learn at the next renewal, the next holder is told of an unclean end, and keys close that were to close."""
    token = cluster.grant("k", "a").token
    doubtful = cluster.grant("d", "a", terms=Terms(on_unclean="refuse")).token
    new = restored(cluster.backup(), keep_holds=False)
    assert new.machine.counts().holds == 0
    renewed = new.do(RenewSession("a"))
    assert isinstance(renewed, Refused)
    assert (renewed.code, renewed.ended) == ("session_expired", "expired")
    new.do(OpenSession("c", 10_000))
    granted = new.grant("k", "c")
    assert granted.previous[0] is not None
    assert (granted.previous[0].token, granted.previous[0].ended) == (token, "expired")
    assert new.machine.counts().in_doubt == 1
    closed = new.do(Acquire(("d",), "c"))
    assert isinstance(closed, Refused)
    assert closed.closed is not None
    assert closed.closed.token == doubtful
    ended = [each for each in new.machine.trail.read(BASE, 10) if each.kind == "ended"]
    assert [(each.token, each.ended, each.wall_ms) for each in ended] == [
        (token, "expired", WALL_MS),
        (doubtful, "expired", WALL_MS),
    ]


def test_a_clean_end_is_not_claimed_any_more_and_an_unclean_one_is(cluster: Cluster) -> None:
    """After the backup the key may have been held again, and have ended otherwise: the horizon says that nothing is known."""
    cluster.do(Release("a", cluster.grant("clean", "a").token))
    cluster.grant("unclean", "i" * 32, ttl_ms=1_000)
    cluster.pass_time(1_000)
    new = restored(cluster.backup(), keep_holds=True)
    granted = new.grant("clean", "a")
    assert (granted.previous, granted.previous_horizon) == ((None,), BASE)
    granted = new.grant("unclean", "a")
    assert granted.previous[0] is not None
    assert granted.previous[0].ended == "expired"


def test_work_that_is_done_stays_done(cluster: Cluster) -> None:
    token = cluster.grant("k", "a").token
    cluster.do(Complete("a", token, "receipt 7", 60_000))
    new = restored(cluster.backup(), keep_holds=False)
    new.do(OpenSession("c", 10_000))
    refused = new.do(Acquire(("k",), "c"))
    assert isinstance(refused, Refused)
    assert refused.closed is not None
    assert refused.closed.result == "receipt 7"


@pytest.mark.parametrize("keep_holds", [True, False])
def test_whoever_waited_has_gone(cluster: Cluster, keep_holds: bool) -> None:
    """With or without a name, and nobody is granted what nobody would hear of."""
    cluster.grant("k", "a")
    cluster.do(Acquire(("k",), "b", wait_ms=30_000, request_id=1))
    cluster.do(Acquire(("k",), "i" * 32, ttl_ms=9_000, wait_ms=30_000))
    new = restored(cluster.backup(), keep_holds=keep_holds)
    counts = new.machine.counts()
    assert (counts.waiters, counts.holds) == (0, int(keep_holds))


def test_new_nodes_are_heard_from_their_first_boot_on(cluster: Cluster) -> None:
    """Their directories are new, so their boots count from 1, below those of the old cluster."""
    cluster.machine.apply(Entry(1, 0, ((Origin("n1", 7, 1), OpenSession("c", 10_000)),)))
    new = restored(cluster.backup(), keep_holds=True)
    assert new.grant("k", "a").token == BASE + 1


def test_a_reader_that_joins_a_kept_phase_has_a_new_fence(cluster: Cluster) -> None:
    """A writer of the old cluster may have raised the floor above the fence that the phase had."""
    guard = MemoryGuard()
    shared = Terms("shared")
    first = cluster.grant("k", "a", terms=shared)
    backup = cluster.backup()
    cluster.do(CloseSession("a"))
    guard.raise_floor("k", cluster.grant("k", "b").token)
    new = restored(backup, keep_holds=True)
    second = new.grant("k", "b", terms=shared)
    assert isinstance(second.fence, int)
    guard.raise_floor("k", second.fence)
    assert isinstance(first.fence, int)
    with pytest.raises(Stale):
        guard.raise_floor("k", first.fence)
    new.do(CloseSession("a"))
    new.do(CloseSession("b"))
    new.do(OpenSession("c", 10_000))
    assert new.grant("k", "c").token > second.fence


def test_whoever_follows_the_trail_is_told_that_it_began_again(cluster: Cluster) -> None:
    """Revisions of the old cluster that are beyond the backup are never given to anything else."""
    cluster.grant("k", "a")
    backup = cluster.backup()
    cluster.do(CloseSession("a"))
    beyond = cluster.machine.trail.last_revision
    new = restored(backup, keep_holds=True)
    with pytest.raises(NoLongerKept):
        new.machine.trail.read(beyond, 10)
    new.grant("j", "a")
    (record,) = new.machine.trail.read(BASE, 10)
    assert (record.revision, record.kind) == (BASE + 1, "granted")


def test_the_same_restore_gives_the_same_bytes(cluster: Cluster) -> None:
    """So that it can be done on each machine for itself; another way of doing it gives others."""
    cluster.grant("k", "a")
    cluster.do(Acquire(("k",), "b", wait_ms=30_000))
    backup = cluster.backup()
    assert restored(backup, keep_holds=True).backup() == restored(backup, keep_holds=True).backup()
    assert restored(backup, keep_holds=True).backup() != restored(backup, keep_holds=False).backup()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_state_was_its_successor_is_whole_and_goes_on(seed: int) -> None:
    """Sessions, waiters, readers, doubts, done records, forced ends, at random; the invariants are checked after every step."""
    rng = random.Random(seed)  # noqa: S311 - a seeded run
    cluster = Cluster()

    def anything() -> Operation:
        session = f"session-{rng.randrange(6)}"
        keys = tuple(rng.sample("abcdef", rng.choice((1, 1, 2))))
        wait_ms, terms = rng.choice((0, 5_000)), rng.choice(TERMS)
        token = cluster.machine.last_token
        operations: tuple[Operation, ...] = (
            OpenSession(session, 3_000, rng.choice((None, "olga"))),
            Acquire(keys, session, wait_ms=wait_ms, request_id=rng.choice((None, 1, "x"))),
            Acquire(keys, f"i{rng.randrange(99)}", ttl_ms=2_000, wait_ms=wait_ms, terms=terms),
            Acquire(keys, session, wait_ms=wait_ms, terms=terms),
            Release(session, token),
            Complete(session, token, "result", 9_000),
            ForceRelease(keys[0], None, "hung", "olga"),
        )
        return rng.choice(operations)

    for _ in range(200):
        cluster.do(anything(), rng.choice((0, 100, 400)))
    for incarnation in (1, 2):
        keep_holds = rng.choice((True, False))
        before = cluster.machine.counts()
        cluster = restored(cluster.backup(), keep_holds=keep_holds, incarnation=incarnation)
        assert cluster.machine.counts().holds == (before.holds if keep_holds else 0)
        for _ in range(100):
            cluster.do(anything(), rng.choice((0, 100, 400)))
