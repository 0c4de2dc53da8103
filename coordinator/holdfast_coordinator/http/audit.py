"""Who did what to the cluster or to somebody else's lock, as one line of the log for each such call, whatever came of it.

Rule: the line says who (as the cluster knows it, not as the caller says), which call, why (what the caller gives as reason and as
operator), and how it ended. It holds no key, which may be personal data: the tokens lead to it, in the history that every node has,
where the same identity stands as the operator. A call that is refused for its rights is a line too. `callers.guard` writes it for
each call that `rights.CALLS` says is audited, so that no handler can forget it; what handlers know more, they add.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import structlog

from holdfast import wire
from holdfast_coordinator.http.problems import Problem, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast_coordinator.access import Identity

EVERYBODY_NAME: Final = "(no identity is asked for)"
_log = structlog.get_logger("holdfast.audit")


@contextlib.contextmanager
def audited(identity: Identity, call: str) -> Iterator[dict[str, Any]]:
    """The block may put more members of the line into what it is given. The line is written when the block ends: `done`, the code
    of a problem, or `unknown_outcome` when nobody heard how it ended."""
    told: dict[str, Any] = {}
    outcome = wire.Code.UNKNOWN_OUTCOME.value
    try:
        yield told
        outcome = "done"
    except Problem as problem:
        outcome = problem.code.value
        raise
    finally:
        name = identity.name or EVERYBODY_NAME
        _log.warning("audit", identity=name, call=call, outcome=outcome, **told)


def operator_of(identity: Identity, said: str) -> str:
    """What stands in the history as the operator: the identity first, which nobody can write for another (it holds no colon).
    Raises `Problem` (400) if both together are too long."""
    if identity.name is None or said == identity.name:
        return said
    operator = f"{identity.name}: {said}"
    if len(operator.encode()) > wire.OPERATOR_BYTES_MAX:
        detail = f"is longer than {wire.OPERATOR_BYTES_MAX} bytes together with the name of your identity"
        raise bad_request("operator", detail)
    return operator
