"""The model's table: who holds, who waits, what is closed, what happened; and the one rule of granting, by scanning everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast_coordinator.machine import (
    ClosedView,
    Granted,
    Holder,
    Limits,
    Note,
    Origin,
    Outcome,
    Previous,
    Record,
    Refused,
    Terms,
)

from .records import ModelClosure, ModelRequest, ModelSession, refused

UNCLEAN = ("expired", "forced")


@dataclass
class Table:
    limits: Limits
    now: int = 0
    wall: int = 0
    token: int = 0
    horizon: int = 0
    sessions: list[ModelSession] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    requests: list[ModelRequest] = field(default_factory=list)
    closures: list[ModelClosure] = field(default_factory=list)
    notes: dict[str, Note] = field(default_factory=dict)
    last: dict[str, Previous] = field(default_factory=dict)
    endings: list[ModelRequest] = field(default_factory=list)
    trail: list[Record] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    out: list[tuple[Origin, Outcome]] = field(default_factory=list)

    # --- looking ------------------------------------------------------------------------------------------------------

    def say(self, origin: Origin | None, outcome: Outcome) -> None:
        assert origin is not None
        self.out.append((origin, outcome))

    def count(self, what: str) -> None:
        self.totals[what] = self.totals.get(what, 0) + 1

    def session(self, name: str) -> ModelSession | None:
        return next((s for s in self.sessions if s.name == name), None)

    def session_of(self, request: ModelRequest) -> ModelSession:
        session = self.session(request.session)
        assert session is not None
        return session

    def waiting(self) -> list[ModelRequest]:
        return [r for r in self.requests if r.status == "waiting"]

    def queue(self, key: str) -> list[ModelRequest]:
        return [r for r in self.waiting() if key in r.keys]

    def held(self) -> list[ModelRequest]:
        return sorted((r for r in self.requests if r.status == "granted"), key=lambda r: r.token)

    def holding(self, key: str) -> list[ModelRequest]:
        return [r for r in self.held() if key in r.keys]

    def closure(self, key: str) -> ModelClosure | None:
        return next((c for c in self.closures if c.key == key), None)

    def remaining(self, name: str) -> int:
        session = self.session(name)
        assert session is not None
        return session.ttl if session.deadline is None else session.deadline - self.now

    def holder(self, r: ModelRequest) -> Holder:
        return Holder(
            r.token,
            r.session,
            r.owner,
            r.terms.mode,
            self.remaining(r.session),
            r.terms.limit,
            r.context,
            self.now - r.granted_at,
        )

    def closed_view(self, closure: ModelClosure) -> ClosedView:
        left = None if closure.deadline is None else closure.deadline - self.now
        by: Any = closure.by
        ended: Any = closure.ended
        return ClosedView(closure.key, by, closure.token, ended, left, closure.result)

    def closed(self, closure: ModelClosure) -> Refused:
        code = {"delay": "closed", "in_doubt": "in_doubt", "done": "already_done"}[closure.by]
        return refused(code, closed=self.closed_view(closure))

    def unclean(self, keys: tuple[str, ...]) -> Refused | None:
        for key in keys:
            last = self.last.get(key)
            if last is not None and last.ended in UNCLEAN and not last.resolved:
                view = ClosedView(key, "in_doubt", last.token, last.ended, None)
                return refused("in_doubt", closed=view)
        return None

    def free(self, key: str, terms: Terms) -> bool:
        """Nothing stands on the key that a request on these terms could not stand beside."""
        if self.closure(key) is not None:
            return False
        holds = self.holding(key)
        if not holds:
            return True
        shared = all(r.terms.mode == "shared" for r in [*holds]) and terms.mode == "shared"
        limit = holds[0].terms.limit
        return shared and limit == terms.limit and (limit is None or len(holds) < limit)

    # --- granting -----------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        """Everybody who waits is looked at, whatever has changed."""
        for request in self.waiting():
            deadline = self.session_of(request).deadline
            if deadline is not None and deadline <= self.now:
                continue
            heads = all(self.queue(key)[0] is request for key in request.keys)
            if not heads or not all(self.free(key, request.terms) for key in request.keys):
                continue
            doubt = self.unclean(request.keys) if request.terms.require_clean else None
            if doubt is None:
                self.say(request.origin, self.grant(request))
            else:
                self.refuse(request, doubt)

    def grant(self, request: ModelRequest) -> Granted:
        self.token += 1
        self.count("grants")
        opened = [(self.holding(key) or [None])[0] for key in request.keys]
        request.fences = tuple(
            self.token if first is None else first.fences[first.keys.index(key)]
            for key, first in zip(request.keys, opened, strict=True)
        )
        request.status, request.token, request.granted_at = "granted", self.token, self.now
        request.previous = tuple(self.last.get(key) for key in request.keys)
        request.horizon = self.horizon
        notes = tuple(self.notes.get(key) for key in request.keys)
        request.notes = notes if any(notes) else ()
        session = self.session_of(request)
        if session.deadline is None:
            session.deadline = self.now + session.ttl
        waited = self.now - request.since
        self.happened("granted", request, waited_ms=waited)
        return self.granted(request)

    def granted(self, r: ModelRequest) -> Granted:
        fence: int | tuple[int, ...] | None = r.token
        if r.terms.limit is not None:
            fence = None
        elif r.terms.mode == "shared":
            fence = r.fences[0] if len(r.keys) == 1 else r.fences
        return Granted(
            r.token,
            fence,
            r.keys,
            r.terms.mode,
            r.session,
            self.remaining(r.session),
            r.previous,
            r.horizon,
            r.notes,
            r.terms.limit,
        )

    def happened(self, kind: Any, r: ModelRequest, **more: Any) -> None:
        what = (r.token, r.keys, r.owner, r.context, r.terms.mode, r.terms.limit)
        revision = len(self.trail) + 1
        self.trail.append(Record(revision, kind, self.now, self.wall, *what, **more))

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self, request: ModelRequest, how: Any, floor: int | None = None, **said: str) -> None:
        request.status, request.ended, request.floor = "ended", how, floor
        counted = {"expired": "expired", "forced": "forced"}.get(how, "releases")
        self.count(counted)
        if request.terms.mode == "exclusive" and how not in UNCLEAN:
            for key in request.keys:
                self.notes.pop(key, None)
        self.happened("ended", request, held_ms=self.now - request.granted_at, ended=how, **said)
        for key in request.keys:
            self.last[key] = Previous(request.token, how, floor)
        while len(self.last) > self.limits.previous_max:
            oldest = min(self.last, key=lambda key: (self.last[key].token, key))
            self.horizon = max(self.horizon, self.last.pop(oldest).token)
        self.endings = [*self.endings, request][-self.limits.endings_max :]

    def close_after(self, request: ModelRequest) -> None:
        """What its terms say becomes of the keys of a hold that has just ended."""
        terms, how = request.terms, request.ended
        if how not in UNCLEAN or terms.on_unclean == "grant":
            return
        for key in request.keys:
            if terms.on_unclean == "delay":
                until = self.now + terms.delay_ms
                self.close(ModelClosure(key, "delay", request.token, str(how), until))
            else:
                self.close(ModelClosure(key, "in_doubt", request.token, str(how), None))

    def close(self, closure: ModelClosure) -> None:
        self.closures.append(closure)
        if closure.by != "delay":
            for request in self.queue(closure.key):
                self.refuse(request, self.closed(closure))

    def refuse(self, request: ModelRequest, refusal: Refused) -> None:
        """A wait ends without a grant; an implicit session that was this wait leaves nothing behind."""
        request.status, request.refused = "refused", refusal
        self.say(request.origin, refusal)
        session = self.session_of(request)
        if session.implicit:
            self.sessions.remove(session)
            self.forget(session.name)

    def forget(self, session: str) -> None:
        for request in self.requests:
            if request.session == session:
                request.forgotten = True

    def end_session(self, session: ModelSession, how: str) -> None:
        for request in self.waiting():
            if request.session == session.name:
                request.status = "refused"
                self.say(request.origin, refused("session_expired", how))
        for request in self.held():
            if request.session == session.name:
                self.end(request, how)
                self.close_after(request)
        self.remove(session, how)
        self.promote()

    def remove(self, session: ModelSession, how: str) -> None:
        self.sessions.remove(session)
        self.gone[session.name] = how
        while len(self.gone) > self.limits.ended_sessions_max:
            del self.gone[next(iter(self.gone))]
        self.forget(session.name)

    def remove_if_implicit(self, request: ModelRequest, how: str) -> None:
        session = self.session_of(request)
        if session.implicit:
            self.remove(session, how)
