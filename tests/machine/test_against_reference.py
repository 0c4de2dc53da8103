"""The machine against a naive model of the same rules: lists, scans, no index, no heap, no bound.

Hypothesis invents entries (batches, repeats, gaps, newer boots, time); both must give every origin the same outcomes, show the
same locks, and agree on tokens and time. After every entry the invariants hold, and a machine restored from a snapshot of any
moment goes on as though nothing had happened.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Cancelled,
    Closed,
    CloseSession,
    Detached,
    Entry,
    Granted,
    Holder,
    Limits,
    Machine,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Passed,
    Previous,
    Queued,
    Refused,
    Release,
    Released,
    Renewed,
    RenewSession,
    SessionOpened,
    Withdraw,
    Withdrawn,
    check_invariants,
    decode_entry,
    encode_entry,
)

KEYS = ("a", "b", "c")
SESSIONS = ("s1", "s2", "s3")
IMPLICIT = ("i1", "i2", "i3", "i4")
LIMITS = Limits(ttl_ms_min=1)


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass
class ModelSession:
    name: str
    ttl: int
    implicit: bool
    deadline: int | None
    settled: int = -1


@dataclass
class ModelRequest:
    """One acquire, whatever became of it: waiting, granted, ended or refused."""

    session: str
    name: int | str | None
    body: object
    keys: tuple[str, ...]
    status: str
    origin: Origin | None = None
    wait_until: int = 0
    token: int = 0
    ended: str | None = None
    refused: Refused | None = None
    previous: tuple[Previous | None, ...] = ()
    forgotten: bool = False


def refused(code: str, ended: str | None = None, **more: Any) -> Refused:
    return Refused(code, "", ended=ended, **more)


@dataclass
class Model:
    now: int = 0
    term: int | None = None
    token: int = 0
    sessions: list[ModelSession] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    requests: list[ModelRequest] = field(default_factory=list)
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)
    out: list[tuple[Origin, Outcome]] = field(default_factory=list)

    def say(self, origin: Origin | None, outcome: Outcome) -> None:
        assert origin is not None
        self.out.append((origin, outcome))

    def session(self, name: str) -> ModelSession | None:
        return next((s for s in self.sessions if s.name == name), None)

    def waiting(self) -> list[ModelRequest]:
        return [r for r in self.requests if r.status == "waiting"]

    def held(self) -> list[ModelRequest]:
        return sorted((r for r in self.requests if r.status == "granted"), key=lambda r: r.token)

    def remaining(self, name: str) -> int:
        session = self.session(name)
        assert session is not None
        return session.ttl if session.deadline is None else session.deadline - self.now

    def absent(self, name: str) -> Refused:
        if name in self.gone:
            return refused("session_expired", self.gone[name])
        return refused("no_such_session")

    def apply(self, entry: Entry) -> list[tuple[Origin, Outcome]]:
        self.out = []
        if entry.term == self.term:
            self.now += max(0, min(500, entry.elapsed_ms))
        self.term = entry.term
        live, newer = self.sequence(entry)
        first = [
            (origin, operation)
            for origin, operation in live
            if isinstance(operation, RenewSession) and self.session(operation.session)
        ]
        for origin, operation in first:
            self.act(origin, operation)
        for request in self.waiting():
            assert request.origin is not None
            if request.name is None and request.origin.boot < newer.get(request.origin.node, 0):
                self.take_out(request)
        self.promote()
        self.expire()
        for addressed in live:
            if addressed not in first:
                self.act(*addressed)
        return self.out

    def sequence(self, entry: Entry) -> tuple[list[tuple[Origin, Operation]], dict[str, int]]:
        live, newer = [], {}
        for origin, operation in entry.operations:
            boot, last = self.origins.get(origin.node, (0, 0))
            if origin.boot == boot and origin.sequence == last + 1:
                pass
            elif origin.boot > boot and origin.sequence == 1:
                newer[origin.node] = origin.boot
            else:
                continue
            self.origins[origin.node] = (origin.boot, origin.sequence)
            live.append((origin, operation))
        return live, newer

    def expire(self) -> None:
        while True:
            due: list[tuple[int, int, Any, Any]] = [
                (s.deadline, 0, s.name, s)
                for s in self.sessions
                if s.deadline is not None and s.deadline <= self.now
            ]
            order = {id(r): number for number, r in enumerate(self.requests)}
            due += [
                (r.wait_until, 1, order[id(r)], r)
                for r in self.waiting()
                if r.wait_until <= self.now
            ]
            if not due:
                return
            _, kind, _, record = min(due, key=lambda item: item[:3])
            if kind == 0:
                self.end_session(record, "expired")
            else:
                record.status, record.refused = "refused", refused("wait_timeout")
                self.say(record.origin, record.refused)
                session = self.session(record.session)
                assert session is not None
                if session.implicit:
                    self.sessions.remove(session)
                    self.forget(record.session)
                self.promote()

    def forget(self, session: str) -> None:
        for request in self.requests:
            if request.session == session:
                request.forgotten = True

    def promote(self) -> None:
        for request in self.waiting():
            session = self.session(request.session)
            assert session is not None
            if session.deadline is not None and session.deadline <= self.now:
                continue
            if not self.blocked(request.keys, before=request):
                self.say(request.origin, self.grant(request))

    def blocked(self, keys: tuple[str, ...], before: ModelRequest | None = None) -> bool:
        for request in self.requests:
            if request is before:
                break
            if request.status == "waiting" and set(request.keys) & set(keys):
                return True
        return any(set(r.keys) & set(keys) for r in self.held())

    def grant(self, request: ModelRequest) -> Granted:
        self.token += 1
        request.status, request.token = "granted", self.token
        request.previous = tuple(self.previous(key) for key in request.keys)
        session = self.session(request.session)
        assert session is not None
        if session.deadline is None:
            session.deadline = self.now + session.ttl
        return self.granted(request)

    def granted(self, request: ModelRequest) -> Granted:
        return Granted(
            request.token,
            request.token,
            request.keys,
            "exclusive",
            request.session,
            self.remaining(request.session),
            request.previous,
            0,
        )

    def previous(self, key: str) -> Previous | None:
        past = [r for r in self.requests if r.status == "ended" and key in r.keys]
        if not past:
            return None
        last = max(past, key=lambda r: r.token)
        return Previous(last.token, last.ended)  # type: ignore[arg-type]

    def end(self, request: ModelRequest, how: str) -> None:
        request.status, request.ended = "ended", how

    def end_session(self, session: ModelSession, how: str) -> None:
        for request in self.waiting():
            if request.session == session.name:
                request.status = "refused"
                self.say(request.origin, refused("session_expired", how))
        for request in self.held():
            if request.session == session.name:
                self.end(request, how)
        self.sessions.remove(session)
        self.gone[session.name] = how
        self.promote()

    def take_out(self, request: ModelRequest) -> None:
        request.status, request.forgotten = "withdrawn", True
        self.say(request.origin, Withdrawn(True))
        session = self.session(request.session)
        assert session is not None
        if session.implicit:
            self.sessions.remove(session)

    def act(self, origin: Origin, operation: Operation) -> None:
        match operation:
            case OpenSession(name, ttl):
                self.say(origin, self.open(name, ttl))
            case RenewSession(name):
                session = self.session(name)
                if session is not None and session.deadline is not None:
                    session.deadline = self.now + session.ttl
                self.say(origin, Renewed(session.ttl) if session else self.absent(name))
            case CloseSession(name):
                self.close(origin, name)
            case Acquire():
                self.acquire(origin, operation)
            case Release(name, token):
                self.say(origin, self.release(name, token))
                self.promote()
            case Cancel(name, request_id):
                self.cancel(origin, name, request_id)
                self.promote()
            case Withdraw(attachment):
                found = [r for r in self.waiting() if r.origin == attachment]
                self.say(origin, Withdrawn(bool(found)))
                for request in found:
                    self.take_out(request)
                self.promote()
            case Barrier():
                self.say(origin, Passed())
            case Malformed():
                self.say(origin, refused("bad_request"))

    def open(self, name: str, ttl: int) -> Outcome:
        session = self.session(name)
        if session is not None:
            if session.implicit or session.ttl != ttl:
                return refused("conflict")
            return SessionOpened(name, ttl, self.remaining(name), False)
        if name in self.gone:
            return self.absent(name)
        self.sessions.append(ModelSession(name, ttl, False, self.now + ttl))
        return SessionOpened(name, ttl, ttl, True)

    def close(self, origin: Origin, name: str) -> None:
        session = self.session(name)
        if session is not None:
            held = tuple(r.token for r in self.held() if r.session == name)
            self.say(origin, Closed(held))
            self.end_session(session, "released")
        elif self.gone.get(name) == "released":
            self.say(origin, Closed(()))
        else:
            self.say(origin, self.absent(name))

    def release(self, name: str, token: int) -> Outcome:
        for request in self.requests:
            if request.token == token and request.session == name and token > 0:
                if request.status == "granted":
                    self.end(request, "released")
                    self.drop_if_implicit(name)
                if request.ended == "released":
                    return Released(token)
                return refused("not_held", request.ended)
        return refused("not_held")

    def drop_if_implicit(self, name: str) -> None:
        session = self.session(name)
        if session is not None and session.implicit:
            self.sessions.remove(session)
            self.gone[name] = "released"

    def named(self, session: str, name: int | str | None) -> ModelRequest | None:
        for request in self.requests:
            same = request.session == session and request.name == name
            if name is not None and same and not request.forgotten:
                return request
        return None

    def cancel(self, origin: Origin, name: str, request_id: int | str) -> None:
        session = self.session(name)
        if session is None:
            self.say(origin, self.absent(name))
            return
        request = self.named(name, request_id)
        if request is not None and request.status == "granted":
            self.end(request, "released")
            self.say(origin, Cancelled(request.token))
            self.drop_if_implicit(name)
            return
        self.say(origin, Cancelled(None))
        if request is not None and request.status == "waiting":
            request.status, request.refused = "refused", refused("wait_timeout")
            self.say(request.origin, request.refused)
            self.drop_if_implicit(name)
        if request is None and not self.is_settled(session, request_id):
            never = refused("wait_timeout")
            self.requests.append(ModelRequest(name, request_id, None, (), "refused", refused=never))

    def is_settled(self, session: ModelSession, name: int | str | None) -> bool:
        return isinstance(name, int) and name <= session.settled

    def settle(self, session: ModelSession, settled: int) -> None:
        session.settled = max(session.settled, settled)
        for request in self.requests:
            ours = request.session == session.name and not request.forgotten
            if ours and self.is_settled(session, request.name):
                request.forgotten = True
                if request.status == "waiting":
                    request.status = "refused"
                    self.say(request.origin, refused("wait_timeout"))
        self.promote()

    def acquire(self, origin: Origin, op: Acquire) -> None:
        session = self.session(op.session)
        if len(set(op.keys)) < len(op.keys):
            self.say(origin, refused("bad_request"))
            return
        if op.ttl_ms is None and session is None:
            self.say(origin, self.absent(op.session))
            return
        if op.ttl_ms is not None and session is None and op.session in self.gone:
            self.say(origin, self.absent(op.session))
            return
        implicit_repeat = session and session.implicit and op.request_id is not None
        if op.ttl_ms is not None and session is not None and not implicit_repeat:
            self.say(origin, refused("conflict"))
            return
        if session is not None and op.settled is not None:
            self.settle(session, op.settled)
        body = (op.keys, op.ttl_ms, op.owner, op.context)
        known = self.named(op.session, op.request_id) if session else None
        if known is not None:
            self.repeat(origin, op, known, body)
        elif session and (session.implicit or self.is_settled(session, op.request_id)):
            self.say(origin, refused("conflict"))
        else:
            self.fresh(origin, op, session, body)

    def repeat(self, origin: Origin, op: Acquire, known: ModelRequest, body: object) -> None:
        if known.body not in (None, body):
            self.say(origin, refused("conflict"))
        elif known.status == "waiting":
            self.say(known.origin, Detached())
            known.origin = origin
            known.wait_until = max(known.wait_until, self.now + op.wait_ms)
            before = self.requests[: self.requests.index(known)]
            self.say(origin, Queued(self.position(known.keys, before)))
        elif known.status == "granted":
            self.say(origin, self.granted(known))
        elif known.status == "ended":
            self.say(origin, refused("not_held", known.ended))
        else:
            assert known.refused is not None
            self.say(origin, known.refused)

    def position(self, keys: tuple[str, ...], among: list[ModelRequest]) -> int:
        waiting = [r for r in among if r.status == "waiting"]
        return max(sum(key in r.keys for r in waiting) for key in keys)

    def fresh(
        self, origin: Origin, op: Acquire, session: ModelSession | None, body: object
    ) -> None:
        request = ModelRequest(op.session, op.request_id, body, op.keys, "refused")
        if self.blocked(op.keys) and op.wait_ms == 0:
            standing = {
                r.token: Holder(r.token, r.session, None, "exclusive", self.remaining(r.session))
                for key in op.keys
                for r in self.held()
                if key in r.keys
            }
            queue = self.position(op.keys, self.requests)
            request.refused = refused("held", holders=tuple(standing.values()), queue_length=queue)
            self.say(origin, request.refused)
            if session is not None:
                self.requests.append(request)
            return
        if session is None:
            assert op.ttl_ms is not None
            self.sessions.append(ModelSession(op.session, op.ttl_ms, True, None))
        if self.blocked(op.keys):
            request.status, request.origin = "waiting", origin
            request.wait_until = self.now + op.wait_ms
            self.say(origin, Queued(self.position(op.keys, self.requests)))
            self.requests.append(request)
        else:
            self.requests.append(request)
            self.say(origin, self.grant(request))


# --- the comparison ---------------------------------------------------------------------------------------------------

names = st.sampled_from(SESSIONS)
request_ids = st.one_of(st.none(), st.integers(0, 5), st.sampled_from(("x", "y")))
some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(tuple)
waits = st.sampled_from((0, 0, 60, 250, 900))


@dataclass(frozen=True)
class Aimed:
    """An operation that is aimed at something that exists when it is sent; `pick` chooses which."""

    act: str
    pick: int


invented: st.SearchStrategy[Operation | Aimed] = st.one_of(
    st.builds(OpenSession, names, st.sampled_from((100, 700, 700, 700))),
    st.builds(RenewSession, st.sampled_from(SESSIONS + IMPLICIT)),
    st.builds(
        Acquire,
        some_keys,
        names,
        st.none(),
        waits,
        request_ids,
        st.one_of(st.none(), st.none(), st.none(), st.integers(0, 3)),
    ),
    st.builds(
        Acquire,
        some_keys,
        st.sampled_from(IMPLICIT),
        st.just(300),
        waits,
        st.sampled_from((None, None, "x")),
    ),
    st.builds(Release, st.sampled_from(SESSIONS + IMPLICIT), st.integers(0, 12)),
    st.builds(Cancel, st.sampled_from(SESSIONS + IMPLICIT), st.sampled_from((0, 1, 4, "x"))),
    st.builds(CloseSession, st.sampled_from(SESSIONS + IMPLICIT)),
    st.just(Barrier()),
    st.just(Malformed("noise")),
)
acquires = st.builds(Acquire, some_keys, names, st.none(), waits, request_ids)
aimed = st.builds(
    Aimed,
    st.sampled_from(("release", "release", "release ended", "repeat", "withdraw", "cancel")),
    st.integers(0, 50),
)
operations = st.one_of(invented, acquires, aimed, aimed)
steps = st.sampled_from(("next",) * 20 + ("seen", "gap", "boot"))
sends = st.lists(st.tuples(st.sampled_from(("n1", "n2")), steps, operations), max_size=6)
Sends = list[tuple[str, str, Operation | Aimed]]


def aim(model: Model, aimed: Aimed) -> Operation:
    """Make an operation of it; a barrier when there is nothing to aim at."""
    wanted = {
        "release": [r for r in model.requests if r.status == "granted"],
        "release ended": [r for r in model.requests if r.status == "ended"],
        "repeat": [r for r in model.requests if r.name is not None and r.body is not None],
        "withdraw": model.waiting(),
        "cancel": [r for r in model.requests if r.name is not None],
    }[aimed.act]
    if not wanted:
        return Barrier()
    request = wanted[aimed.pick % len(wanted)]
    if aimed.act == "withdraw" and request.origin is not None:
        return Withdraw(request.origin)
    if aimed.act == "cancel" and request.name is not None:
        return Cancel(request.session, request.name)
    if aimed.act == "repeat":
        keys, ttl, owner, context = request.body  # type: ignore[misc]
        wait = (0, 250, 900)[aimed.pick % 3]
        return Acquire(keys, request.session, ttl, wait, request.name, None, owner, context)
    return Release(request.session, request.token)


def told(outcomes: list[tuple[Origin, Outcome]]) -> dict[Origin, list[Outcome]]:
    """What each origin hears, in order; wording is for people and is left out."""
    by_origin: dict[Origin, list[Outcome]] = {}
    for origin, outcome in outcomes:
        heard = by_origin.setdefault(origin, [])
        if isinstance(outcome, Refused):
            code = str(outcome.code)
            heard.append(dataclasses.replace(outcome, code=code, detail="", field=None, limit=None))
        else:
            heard.append(outcome)
    return by_origin


class Pair:
    """The machine and the model, told the same things."""

    def __init__(self) -> None:
        self.machine = Machine(LIMITS)
        self.model = Model()
        self.sent = {"n1": (1, 0), "n2": (1, 0)}
        # Sessions from the start: most invented entries would otherwise only be refused.
        opening: Sends = [("n1", "next", OpenSession(name, 700)) for name in SESSIONS]
        self.step(opening, 0, 1)

    def origin(self, node: str, step: str) -> Origin:
        boot, last = self.sent[node]
        if step == "seen":
            return Origin(node, boot, max(1, last))
        if step == "gap":
            return Origin(node, boot, last + 2)
        boot, last = (boot + 1, 1) if step == "boot" else (boot, last + 1)
        self.sent[node] = (boot, last)
        return Origin(node, boot, last)

    def step(self, sends: Sends, elapsed_ms: int, term: int) -> None:
        addressed = tuple(
            (self.origin(node, step), aim(self.model, op) if isinstance(op, Aimed) else op)
            for node, step, op in sends
        )
        entry = Entry(term, elapsed_ms, addressed)
        assert decode_entry(encode_entry(entry)) == entry
        assert told(self.machine.apply(entry)) == told(self.model.apply(entry))

    def restore(self) -> None:
        restored = Machine.restore(self.machine.snapshot(), LIMITS)
        assert restored.state_hash() == self.machine.state_hash()
        self.machine = restored

    def agree(self) -> None:
        check_invariants(self.machine)
        assert self.machine.last_token == self.model.token
        assert self.machine.cluster_time_ms == self.model.now
        assert self.machine.has_deadlines == bool(self.model.sessions)
        for key in KEYS:
            view = self.machine.lock(key)
            held = [r.token for r in self.model.held() if key in r.keys]
            assert [holder.token for holder in view.holders] == held
            waiting = [r.session for r in self.model.waiting() if key in r.keys]
            assert [waiter.session for waiter in view.waiters] == waiting


class MachineAgainstModel(RuleBasedStateMachine):
    """Hypothesis chooses; a failure shrinks to a short story."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    @rule(
        sends=sends,
        elapsed_ms=st.sampled_from((0, 0, 1, 40, 120, 400, 9_000)),
        term=st.sampled_from((1, 1, 1, 1, 1, 2)),
    )
    def apply(self, sends: Sends, elapsed_ms: int, term: int) -> None:
        self.pair.step(sends, elapsed_ms, term)

    @rule()
    def restore(self) -> None:
        self.pair.restore()

    @invariant()
    def agree(self) -> None:
        self.pair.agree()


TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


# --- long walks -------------------------------------------------------------------------------------------------------


def walk_operation(rng: random.Random) -> Operation | Aimed:
    """Denser than what Hypothesis invents: most of these find something to act on."""
    keys = tuple(rng.sample(KEYS, rng.choice((1, 1, 1, 2, 3))))
    wait = rng.choice((0, 60, 250, 250, 900, 900))
    name = rng.choice((None, None, "x", "y", *range(8)))
    match rng.randrange(12):
        case 0 | 1 | 2 | 3:
            settled = rng.randrange(5) if rng.random() < 0.1 else None
            return Acquire(keys, rng.choice(SESSIONS), None, wait, name, settled)
        case 4 | 5:
            implicit = rng.choice((*IMPLICIT, f"i{rng.randrange(100)}"))
            return Acquire(keys, implicit, 300, wait, rng.choice((None, None, "x")))
        case 6:
            return RenewSession(rng.choice(SESSIONS + IMPLICIT))
        case 7:
            act = rng.randrange(5)
            if act == 0:
                return CloseSession(rng.choice(SESSIONS + IMPLICIT))
            if act == 1:
                return Cancel(rng.choice(SESSIONS), rng.choice(("x", "y", *range(8))))
            return OpenSession(f"s{rng.randrange(6)}", rng.choice((700, 700, 300)))
        case _:
            acts = ("release", "release", "release", "release ended", "repeat", "repeat")
            return Aimed(rng.choice((*acts, "withdraw", "cancel")), rng.randrange(1000))


@pytest.mark.parametrize("seed", range(40))
def test_a_long_walk_stays_in_step_with_the_model(seed: int) -> None:
    """Forty seeded walks of a hundred entries: the same outcomes, locks, tokens and time throughout."""
    rng = random.Random(seed)  # noqa: S311 -- a reproducible walk
    pair = Pair()
    term = 1
    for _ in range(100):
        steps = ("next",) * 30 + ("seen", "gap", "boot")
        sends = [
            (rng.choice(("n1", "n2")), rng.choice(steps), walk_operation(rng))
            for _ in range(rng.choice((0, 1, 1, 2, 4, 8)))
        ]
        term += rng.random() < 0.05
        pair.step(sends, rng.choice((0, 0, 1, 20, 20, 60, 200, 9_000)), term)
        pair.agree()
        if rng.random() < 0.1:
            pair.restore()
