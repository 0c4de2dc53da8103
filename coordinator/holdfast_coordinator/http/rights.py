"""Which right each call needs, and whether an identity has it.

Rule: `CALLS` is the only place that says so. A call that is not in it is refused to everybody, and an application with such a route
is not made at all. A refusal is the same whatever was asked for: it depends on the rules and on what the caller itself sent, and
on nothing that is in the lock table. Pure; a call is a name (`POST /v1/locks/acquire`), not a request, so that whatever carries
calls asks here: the router for a request, a stream for each message.

The order for one call: `authorize(identity, call)` before its body is read, then `authorize(identity, call, keys)` with the keys
that it names, before anything else is done. What is listed or streamed is cut to `readable(identity, prefix)`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.wire import Code
from holdfast_coordinator.access import Identity, Right
from holdfast_coordinator.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scope(Enum):
    """For what the right is needed."""

    NOBODY = "nobody"
    """It is open: no identity is asked for."""
    KNOWN = "known"
    """Any identity, whatever it may do."""
    SOME = "some"
    """The right for some key. The call names no key, but a session, which answers to its own identity alone (`ownership`)."""
    KEYS = "keys"
    """The right for each key that the call names."""
    WITHIN = "within"
    """The right for some key under the prefix that is asked for; what is outside is not shown."""
    ALL = "all"
    """The right for every key."""


class Need(NamedTuple):
    scope: Scope
    right: Right | None = None
    audited: bool = False
    """It changes what others have, or the cluster: the log says who did it."""


_OPEN: Final = Need(Scope.NOBODY)
_KNOWN: Final = Need(Scope.KNOWN)
_OWN: Final = Need(Scope.SOME, Right.ACQUIRE)
_READ: Final = Need(Scope.KEYS, Right.READ)
_LIST: Final = Need(Scope.WITHIN, Right.READ)
_FORCE: Final = Need(Scope.KEYS, Right.FORCE, audited=True)
_ADMIN: Final = Need(Scope.ALL, Right.ADMIN, audited=True)

CALLS: Final[dict[str, Need]] = {
    "POST /v1/sessions": _OWN,
    "POST /v1/sessions/renew": _OWN,
    "POST /v1/sessions/close": _OWN,
    "POST /v1/locks/acquire": Need(Scope.KEYS, Right.ACQUIRE),
    "POST /v1/locks/release": _OWN,
    "POST /v1/locks/complete": _OWN,
    "POST /v1/locks/checkpoint": _OWN,
    "POST /v1/locks/cancel": _OWN,
    "POST /v1/locks/force-release": _FORCE,
    "POST /v1/locks/resolve": _FORCE,
    "POST /v1/locks/read": _LIST,  # one key, or a listing
    "GET /v1/locks": _LIST,
    "GET /v1/locks/check": _READ,
    "GET /v1/locks/explain": _READ,
    "POST /v1/locks/explain": _READ,
    "GET /v1/closed": _LIST,
    "POST /v1/closed/read": _LIST,
    "GET /v1/history": _READ,
    "POST /v1/history/read": _READ,
    # The hashes of an export cover every record: nothing can be left out of it.
    "GET /v1/history/export": Need(Scope.ALL, Right.READ),
    "GET /v1/events": _LIST,
    "GET /v1/cluster": _KNOWN,
    "GET /v1/cluster/node": _KNOWN,
    "POST /v1/cluster/backup": _ADMIN,  # it holds the ids of all sessions, and so the means to act as any of them
    "POST /v1/cluster/reload": _ADMIN,
    "POST /v1/cluster/step-down": _ADMIN,
    "POST /v1/cluster/replace-node": _ADMIN,
    "GET /v1/openapi.yaml": _KNOWN,
    # Of no use to a stranger, and whoever asks (a supervisor, a load balancer) often has no credential.
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    # How much is going on is nobody's business who is not known. `access.metrics_open` opens it.
    "GET /metrics": _KNOWN,
    "GET /v1/stream": _KNOWN,  # each call in it is authorized by itself
}


def authorize(identity: Identity, call: str, keys: Iterable[str] | None = None) -> None:
    """Raises `Problem` (403) unless `identity` may make this call, for each of `keys`; None: for some key, which is what can be
    said before the keys are known. (`Scope.WITHIN`: keys that are named are looked at alone; for a prefix see `readable`.)"""
    need = CALLS.get(call)
    if need is None:
        raise forbidden()
    right = need.right
    if right is None:
        return
    if need.scope is Scope.ALL:
        if not identity.may_all(right):
            raise forbidden()
    elif not identity.has(right) or (
        keys is not None and not all(identity.may(right, key) for key in keys)
    ):
        raise forbidden()


def readable(identity: Identity, prefix: str) -> tuple[str, ...]:
    """The prefixes under which `identity` may read, of those keys that begin with `prefix`: at least one, sorted. Raises `Problem`
    (403) if it may read nothing there, whether there is something or not."""
    within = identity.within(Right.READ, prefix)
    if not within:
        raise forbidden()
    return within


def forbidden() -> Problem:
    """Always the same words."""
    return Problem(Code.FORBIDDEN, "this identity may not do that; its rights are in cluster.yml")
