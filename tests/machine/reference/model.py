"""What each operation does, in the model. The order within an entry is that of `Machine`: see its docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Cancelled,
    Checkpoint,
    Checkpointed,
    Closed,
    CloseSession,
    Complete,
    Completed,
    Entry,
    ForceRelease,
    ForceReleased,
    Malformed,
    Note,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Passed,
    Record,
    Refused,
    Release,
    Released,
    Renewed,
    RenewSession,
    Resolve,
    Resolved,
    SessionOpened,
    Withdraw,
    Withdrawn,
)

from .acquiring import acquire, named, quota_of_sessions
from .records import ModelClosure, ModelRequest, ModelSession, refused
from .table import UNCLEAN, Table
from .waits import Step


@dataclass
class Model(Table):
    term: int | None = None
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)
    circles: dict[Origin, tuple[list[Step], ModelRequest]] = field(default_factory=dict)

    def apply(self, entry: Entry) -> list[tuple[Origin, Outcome]]:
        self.out, self.circles = [], {}
        if entry.term == self.term:
            self.now += max(0, min(500, entry.elapsed_ms))
        self.term, self.wall = entry.term, entry.wall_ms
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
            order = {id(r): number for number, r in enumerate(self.requests)}
            everything: list[tuple[int | None, int, Any, Any]] = [
                *((s.deadline, 0, s.name, s) for s in self.sessions),
                *((r.wait_until, 1, order[id(r)], r) for r in self.waiting()),
                *((c.deadline, 2, c.key, c) for c in self.closures),
            ]
            due = [each for each in everything if each[0] is not None and each[0] <= self.now]
            if not due:
                return
            record = min(due, key=lambda item: item[:3])[3]
            if isinstance(record, ModelSession):
                self.count("sessions expired")
                self.end_session(record, "expired")
            elif isinstance(record, ModelRequest):
                self.count("wait timeouts")
                self.refuse(record, refused("wait_timeout"))
                self.promote()
            else:
                self.closures.remove(record)
                if record.by == "done":
                    what = (len(self.trail) + 1, "forgotten", self.now, self.wall, record.token)
                    self.trail.append(Record(*what, (record.key,)))
                self.promote()

    def take_out(self, request: ModelRequest) -> None:
        request.status, request.forgotten = "withdrawn", True
        self.say(request.origin, Withdrawn(True))
        session = self.session_of(request)
        if session.implicit:
            self.sessions.remove(session)

    def act(self, origin: Origin, operation: Operation) -> None:
        match operation:
            case OpenSession(name, ttl, owner):
                self.say(origin, self.open(name, ttl, owner))
            case RenewSession(name):
                self.say(origin, self.renew(name))
            case CloseSession(name):
                self.close_session(origin, name)
            case Acquire():
                acquire(self, origin, operation)
            case Release(name, token):
                self.say(origin, self.release(name, token))
            case Complete():
                self.complete(origin, operation)
            case Checkpoint():
                self.say(origin, self.checkpoint(operation))
            case ForceRelease():
                self.force(origin, operation)
            case Resolve():
                self.resolve(origin, operation)
            case Cancel(name, request_id):
                self.cancel(origin, name, request_id)
            case Withdraw():
                asked = Origin(operation.node, operation.boot, operation.sequence)
                found = [r for r in self.waiting() if r.origin == asked]
                self.say(origin, Withdrawn(bool(found)))
                for request in found:
                    self.take_out(request)
            case Barrier():
                self.say(origin, Passed())
            case Malformed():
                self.say(origin, refused("bad_request"))
        self.promote()

    # --- sessions -----------------------------------------------------------------------------------------------------

    def absent(self, name: str) -> Refused:
        if name in self.gone:
            return refused("session_expired", self.gone[name])
        return refused("no_such_session")

    def open(self, name: str, ttl: int, owner: str | None) -> Outcome:
        session = self.session(name)
        if session is not None:
            if session.implicit or session.ttl != ttl:
                return refused("conflict")
            return SessionOpened(name, ttl, self.remaining(name), False)
        if name in self.gone:
            return self.absent(name)
        if (limit := quota_of_sessions(self, owner)) is not None:
            return refused("limit_reached", limit=limit)
        self.sessions.append(ModelSession(name, ttl, False, self.now + ttl, owner))
        return SessionOpened(name, ttl, ttl, True)

    def renew(self, name: str) -> Outcome:
        session = self.session(name)
        if session is None:
            return self.absent(name)
        if session.deadline is not None:
            session.deadline = self.now + session.ttl
        return Renewed(session.ttl, tuple(session.forced))

    def close_session(self, origin: Origin, name: str) -> None:
        session = self.session(name)
        if session is not None:
            held = tuple(r.token for r in self.held() if r.session == name)
            self.say(origin, Closed(held))
            self.end_session(session, "released")
        elif self.gone.get(name) == "released":
            self.say(origin, Closed(()))
        else:
            self.say(origin, self.absent(name))

    # --- holds --------------------------------------------------------------------------------------------------------

    def hold(self, session: str, token: int) -> ModelRequest | None:
        ours = (r for r in self.held() if r.token == token and r.session == session)
        return next(ours, None)

    def ending(self, session: str, token: int) -> str | None:
        """How this session's hold of this token ended, as long as that is remembered."""
        for request in self.endings:
            if request.token == token and request.session == session:
                return request.ended
        return None

    def release(self, name: str, token: int) -> Outcome:
        request = self.hold(name, token)
        if request is not None:
            self.end(request, "released")
            self.remove_if_implicit(request, "released")
            return Released(token)
        ended = self.ending(name, token)
        if ended == "released":
            return Released(token)
        session = self.session(name)
        if session is not None and token in session.forced:
            session.forced.remove(token)
            ended = "forced"
        return refused("not_held", ended)

    def complete(self, origin: Origin, op: Complete) -> None:
        request = self.hold(op.session, op.token)
        if request is None:
            self.say(origin, self.completed_before(op))
            return
        limits = self.limits
        done = [c for c in self.closures if c.by == "done"]
        size = sum(len((c.result or "").encode()) for c in done)
        if request.terms.mode != "exclusive":
            self.say(origin, refused("conflict"))
        elif len(done) + len(request.keys) > limits.done_max:
            self.say(origin, refused("limit_reached", limit="done_max"))
        elif size + len(request.keys) * len(op.result.encode()) > limits.done_bytes_max:
            self.say(origin, refused("limit_reached", limit="done_bytes_max"))
        else:
            self.end(request, "completed")
            self.remove_if_implicit(request, "completed")
            self.say(origin, Completed(op.token, op.retain_ms))
            until = self.now + op.retain_ms
            for key in request.keys:
                self.close(ModelClosure(key, "done", op.token, "completed", until, op.result))

    def completed_before(self, op: Complete) -> Outcome:
        ended = self.ending(op.session, op.token)
        if ended != "completed":
            return refused("not_held", ended)
        for closure in self.closures:
            if closure.by == "done" and closure.token == op.token:
                if closure.result != op.result:
                    return refused("conflict")
                return Completed(op.token, (closure.deadline or 0) - self.now)
        return Completed(op.token, 0)

    def checkpoint(self, op: Checkpoint) -> Outcome:
        request = self.hold(op.session, op.token)
        if request is None:
            return refused("not_held", self.ending(op.session, op.token))
        if request.terms.mode != "exclusive":
            return refused("conflict")
        last = self.notes.get(request.keys[0])
        if last and last.token == op.token and op.number and op.number <= last.number:
            return Checkpointed(op.token)
        note = Note(op.token, op.value, op.number or 0)
        after = {**self.notes, **dict.fromkeys(request.keys, note)}
        if len(after) > self.limits.checkpoints_max:
            return refused("limit_reached", limit="checkpoints_max")
        if sum(len(n.value.encode()) for n in after.values()) > self.limits.checkpoint_bytes_max:
            return refused("limit_reached", limit="checkpoint_bytes_max")
        self.notes = after
        return Checkpointed(op.token)

    # --- operators ----------------------------------------------------------------------------------------------------

    def force(self, origin: Origin, op: ForceRelease) -> None:
        holds = self.holding(op.key)
        named_hold = [r for r in holds if r.token == op.token]
        if op.token is not None:
            one_fence = bool(named_hold) and named_hold[0].terms.limit is None
            others = [r for r in holds if r not in named_hold] if one_fence else []
            holds = others + named_hold
        if not holds:
            self.say(origin, self.forced_before(op))
            return
        self.token += 1
        floor = self.token
        self.say(origin, ForceReleased(tuple(r.token for r in holds), floor))
        for request in holds:
            self.end(request, "forced", floor, operator=op.operator, reason=op.reason)
            self.session_of(request).forced.append(request.token)
            self.close_after(request)
            self.remove_if_implicit(request, "forced")

    def forced_before(self, op: ForceRelease) -> Outcome:
        """Only by its token, and only as a hold of this very key."""
        for request in self.endings:
            if request.token == op.token and op.key in request.keys and request.floor is not None:
                return ForceReleased((request.token,), request.floor)
        last = self.last.get(op.key)
        return refused("not_held", last.ended if last and last.token == op.token else None)

    def resolve(self, origin: Origin, op: Resolve) -> None:
        closure = self.closure(op.key)
        if closure is not None and closure.token != op.token:
            closure = None
        last = self.last.get(op.key)
        doubt = last is not None and last.token == op.token and last.ended in UNCLEAN
        doubt = doubt and last is not None and not last.resolved
        self.say(origin, Resolved(doubt or closure is not None))
        if doubt and last is not None:
            self.last[op.key] = last.__class__(last.token, last.ended, last.floor, resolved=True)
        if closure is not None:
            self.closures.remove(closure)
        if doubt or closure is not None:
            self.trail.append(
                Record(
                    len(self.trail) + 1,
                    "resolved",
                    self.now,
                    self.wall,
                    op.token,
                    (op.key,),
                    ended=None if closure is None else closure.ended,
                    operator=op.operator,
                    reason=op.reason,
                )
            )

    # --- cancelling ---------------------------------------------------------------------------------------------------

    def cancel(self, origin: Origin, name: str, request_id: int | str) -> None:
        session = self.session(name)
        if session is None:
            self.say(origin, self.absent(name))
            return
        request = named(self, name, request_id)
        if request is not None and request.status == "granted":
            self.end(request, "released")
            self.say(origin, Cancelled(request.token))
            self.remove_if_implicit(request, "released")
            return
        self.say(origin, Cancelled(None))
        if request is not None and request.status == "waiting":
            request.status, request.refused = "refused", refused("wait_timeout")
            self.say(request.origin, request.refused)
            self.remove_if_implicit(request, "released")
        if request is None and not (isinstance(request_id, int) and request_id <= session.settled):
            never = refused("wait_timeout")
            self.requests.append(ModelRequest(name, request_id, None, (), "refused", refused=never))
