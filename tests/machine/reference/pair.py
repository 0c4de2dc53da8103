"""The machine and the model, told the same things, and everything about them that must agree."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgspec

from holdfast_coordinator.machine import (
    Blocker,
    ClosedView,
    Completed,
    Durations,
    Entry,
    Explanation,
    Granted,
    Limits,
    LockView,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Refused,
    WaiterView,
    check_invariants,
    decode_entry,
    encode_entry,
)

from .drawing import KEYS, OWNERS, SESSIONS, Aimed, aim
from .model import Model
from .records import ModelRequest
from .waits import is_a_circle

Sends = list[tuple[str, str, Operation | Aimed]]


def told(outcomes: list[tuple[Origin, Outcome]]) -> dict[Origin, list[Outcome]]:
    """What each origin hears, in order. Wording is for people and is left out; a circle is judged apart, since there can be
    several."""
    by_origin: dict[Origin, list[Outcome]] = {}
    for origin, outcome in outcomes:
        heard = by_origin.setdefault(origin, [])
        if isinstance(outcome, Refused):
            plain = {"code": str(outcome.code), "detail": "", "field": None, "cycle": ()}
            heard.append(msgspec.structs.replace(outcome, **plain))  # type: ignore[arg-type]
        else:
            heard.append(outcome)
    return by_origin


def kinds_of(outcome: Outcome) -> list[str]:
    """What a walk has met with: the outcome, and what was worth telling about it."""
    kinds = [type(outcome).__name__]
    if isinstance(outcome, Refused):
        kinds = [f"refused {outcome.code}"]
        kinds += [f"limit {outcome.limit}"] * (outcome.limit is not None)
        kinds += [f"ended {outcome.ended}"] * (outcome.ended is not None)
    elif isinstance(outcome, Granted):
        kinds.append(f"granted {outcome.mode}{' of a few' * (outcome.limit is not None)}")
        kinds += ["granted with notes"] * bool(outcome.checkpoints)
        kinds += ["granted with several fences"] * isinstance(outcome.fence, tuple)
        kinds += ["granted into a phase"] * (outcome.fence not in (None, outcome.token))
        known = [each for each in outcome.previous if each is not None]
        kinds += [f"granted after {each.ended}" for each in known]
        kinds += ["granted after a floor" for each in known if each.floor is not None]
        kinds += ["granted after a resolution" for each in known if each.resolved]
        kinds += ["granted past the horizon"] * (outcome.previous_horizon > 0)
    elif isinstance(outcome, Completed) and outcome.remaining_ms == 0:
        kinds.append("completed, and forgotten")
    else:
        flags = {"resolved", "removed", "released", "created", "forced"}
        for each in msgspec.structs.fields(outcome):
            if each.name in flags:
                kinds.append(f"{kinds[0]} {each.name} {bool(getattr(outcome, each.name))}")
    return kinds


class Pair:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.machine = Machine(limits)
        self.model = Model(limits)
        self.sent = {"n1": (1, 0), "n2": (1, 0)}
        self.met: Counter[str] = Counter()
        self.read_up_to = 0
        # Sessions from the start: most invented entries would otherwise only be refused.
        opening: Sends = [
            ("n1", "next", OpenSession(name, 700, OWNERS.get(name))) for name in SESSIONS
        ]
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
        entry = Entry(term, elapsed_ms, addressed, 1_700_000_000_000 - self.model.now)
        assert decode_entry(encode_entry(entry)) == entry
        outcomes = self.machine.apply(entry)
        assert told(outcomes) == told(self.model.apply(entry))
        now = {origin for origin, _ in addressed}
        for origin, outcome in outcomes:
            kinds = kinds_of(outcome)
            self.met.update(kinds)
            self.met.update([f"later {kinds[0]}"] * (origin not in now))
            if isinstance(outcome, Refused) and origin in self.model.circles:
                relation, asked = self.model.circles[origin]
                assert is_a_circle(relation, asked, outcome.cycle)
                self.met[f"circle of {min(len(outcome.cycle), 3)}"] += 1
                places = any(step.token is None for step in outcome.cycle)
                self.met["circle through a queue"] += places

    def restore(self) -> None:
        """From here on it is another machine, made of the snapshot of the first."""
        restored = Machine.restore(self.machine.snapshot(), self.limits)
        assert restored.state_hash() == self.machine.state_hash()
        self.machine = restored

    # --- what must agree ----------------------------------------------------------------------------------------------

    def agree(self) -> None:
        machine, model = self.machine, self.model
        check_invariants(machine)
        assert machine.last_token == model.token
        assert machine.cluster_time_ms == model.now
        timed = [closure for closure in model.closures if closure.deadline is not None]
        assert machine.has_deadlines == bool(model.sessions or timed)
        for key in KEYS:
            assert machine.lock(key) == self.lock(key)
        closed = [model.closed_view(each) for each in sorted(model.closures, key=lambda c: c.key)]
        assert machine.closures("", None, None, 10) == (closed, None)
        assert machine.trail.last_revision == len(model.trail)
        fresh = machine.trail.read(self.read_up_to, len(model.trail))
        assert fresh == model.trail[self.read_up_to :]
        self.read_up_to = len(model.trail)

    def agree_on_reads(self) -> None:
        """What is too dear to compare after every entry."""
        machine, model = self.machine, self.model
        first = machine.trail.first_revision
        assert machine.trail.read(first - 1, len(model.trail)) == model.trail[first - 1 :]
        for key in KEYS:
            assert machine.explain(key) == self.explanation(key)
            named = [each for each in model.trail[first - 1 :] if key in each.keys]
            assert list(machine.trail.of_key(key, first - 1)) == named
        used = {key for r in [*model.held(), *model.waiting()] for key in r.keys}
        assert machine.locks("", None, 10) == ([self.lock(key) for key in sorted(used)], None)
        assert self.counted() == {
            name: value
            for name, value in dataclasses.asdict(machine.counts()).items()
            if name in self.counted()
        }

    def counted(self) -> dict[str, int]:
        model = self.model
        held, totals = model.held(), model.totals
        by = Counter(closure.by for closure in model.closures)
        return {
            "sessions": len(model.sessions),
            "holds": len(held),
            "keys": len({key for r in held for key in r.keys}),
            "waiters": len(model.waiting()),
            "delayed": by["delay"],
            "in_doubt": by["in_doubt"],
            "done": by["done"],
            "checkpoints": len(model.notes),
            "previous": len(model.last),
            "grants_total": totals.get("grants", 0),
            "releases_total": totals.get("releases", 0),
            "expired_total": totals.get("expired", 0),
            "sessions_expired_total": totals.get("sessions expired", 0),
            "wait_timeouts_total": totals.get("wait timeouts", 0),
            "forced_total": totals.get("forced", 0),
            "deadlocks_total": totals.get("deadlocks", 0),
            "revision": len(model.trail),
        }

    def lock(self, key: str) -> LockView:
        model = self.model
        closure = model.closure(key)
        view: ClosedView | None = None if closure is None else model.closed_view(closure)
        waiters = tuple(
            WaiterView(
                r.session,
                r.owner,
                r.keys,
                r.terms.mode,
                r.wait_until - model.now,
                r.terms.limit,
                r.context,
                model.now - r.since,
            )
            for r in model.queue(key)
        )
        holders = tuple(model.holder(r) for r in model.holding(key))
        return LockView(key, holders, waiters, view, model.notes.get(key), model.last.get(key))

    def explanation(self, key: str) -> Explanation:
        first = self.machine.trail.first_revision
        named = [each for each in self.model.trail[first - 1 :] if key in each.keys]
        waited = [each.waited_ms for each in named if each.kind == "granted"]
        held = [each.held_ms for each in named if each.kind == "ended"]
        blockers = tuple(self.blockers(waiter) for waiter in self.model.queue(key))
        return Explanation(self.lock(key), blockers, durations(waited), durations(held), first)

    def blockers(self, waiter: ModelRequest) -> tuple[Blocker, ...]:
        """The holds that must end first, through the queue: a reader behind a writer waits for what the writer waits for."""
        found = []
        for key in waiter.keys:
            queue = self.model.queue(key)
            upto = queue[: queue.index(waiter) + 1]
            alone = any(each.terms.mode == "exclusive" for each in upto)
            found += [
                Blocker(key, r.token, r.session, r.owner, r.context)
                for r in self.model.holding(key)
                if alone or r.terms.mode == "exclusive" or r.terms.limit == 1
            ]
        return tuple(found)


def durations(values: list[Any]) -> Durations:
    ordered = sorted(values)
    if not ordered:
        return Durations(0, 0, 0)
    return Durations(len(ordered), ordered[(len(ordered) - 1) // 2], ordered[-1])
