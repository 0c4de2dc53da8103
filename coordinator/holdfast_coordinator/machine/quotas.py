"""What one tenant may use of the cluster, and how much of it is used.

Rule: the counts follow the records (`count_*` is called wherever one is linked or removed), and the question is asked once, when a
request arrives. Without quotas nothing here is called. It does not know who a caller is: only key prefixes and owner names.
"""

from __future__ import annotations

from .limits import Quota
from .outcomes import Refused
from .refusals import too_many
from .state import Hold, Session, State, Waiter


def count_session(state: State, session: Session, by: int) -> None:
    for index, quota in enumerate(state.limits.quotas):
        if quota.owner is not None and quota.owner == session.owner and not session.implicit:
            state.tally.quota_sessions[index] += by


def count_hold(state: State, hold: Hold, by: int) -> None:
    for index, quota in enumerate(state.limits.quotas):
        state.tally.quota_holds[index] += by * _share(quota, hold.keys, hold.owner)


def count_waiter(state: State, waiter: Waiter, by: int) -> None:
    for index, quota in enumerate(state.limits.quotas):
        state.tally.quota_waiters[index] += by * _share(quota, waiter.keys, waiter.owner)


def counted_again(state: State) -> tuple[list[int], list[int], list[int]]:
    """Sessions, holds and waiters of each quota, from the records themselves: what the counts must be."""
    holds, waiters = state.holds.values(), state.waiters.values()
    sessions = [each for each in state.sessions.values() if not each.implicit]
    found = state.limits.quotas
    return (
        [sum(q.owner is not None and each.owner == q.owner for each in sessions) for q in found],
        [sum(_share(q, each.keys, each.owner) for each in holds) for q in found],
        [sum(_share(q, each.keys, each.owner) for each in waiters) for q in found],
    )


def no_more_sessions(state: State, owner: str | None) -> Refused | None:
    for quota, used in zip(state.limits.quotas, state.tally.quota_sessions, strict=True):
        is_meant = quota.owner is not None and quota.owner == owner
        if is_meant and quota.sessions is not None and used >= quota.sessions:
            return too_many(f"quota.sessions:{quota.name}", quota.sessions, "sessions")
    return None


def no_more_keys(
    state: State, keys: tuple[str, ...], owner: str | None, *, waiting: bool
) -> Refused | None:
    """Whether one more hold (or waiter) of these keys exceeds a quota."""
    tally = state.tally
    used_by_quota = tally.quota_waiters if waiting else tally.quota_holds
    for quota, used in zip(state.limits.quotas, used_by_quota, strict=True):
        maximum = quota.waiters if waiting else quota.holds
        share = _share(quota, keys, owner)
        if maximum is not None and share and used + share > maximum:
            what = "waiters" if waiting else "holds"
            return too_many(f"quota.{what}:{quota.name}", maximum, f"{what} of this tenant")
    return None


def _share(quota: Quota, keys: tuple[str, ...], owner: str | None) -> int:
    """How many of these keys count."""
    if quota.prefix is not None:
        return sum(key.startswith(quota.prefix) for key in keys)
    return len(keys) if quota.owner == owner else 0
