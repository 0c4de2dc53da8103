"""What one acquire is told, checked: the arguments that `lock`, `locked` and `acquire_lock` of both faces share.

Rule: values only. Whatever is wrong with an argument is said here, as a `ValueError`, before anything is sent; what only the
cluster can judge (a key, its length) is left to the cluster.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypedDict

from holdfast import wire
from holdfast.contexts import check_note
from holdfast.grant import NO_HOOKS, Hooks
from holdfast.terms import PLAIN, Terms, terms_of
from holdfast.values import value
from holdfast.views import MS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.grant import Grant
    from holdfast.terms import Mode, OnUnclean


@value
class LockOptions:
    """How to acquire and hold. Seconds; `wait` is infinity for "as long as it takes"; None: not asked for."""

    wait: float = 0.0
    ttl: float | None = None
    max_hold: float | None = None
    progress_within: float | None = None
    context: str | None = None
    reentrant: bool = False
    terms: Terms = PLAIN
    hooks: Hooks = NO_HOOKS

    @property
    def is_bounded(self) -> bool:
        """Whether the hold may end although its session could be renewed."""
        return self.max_hold is not None or self.progress_within is not None

    def session_ttl(self, usual: float) -> float | None:
        """The TTL of a session of its own, None: the client's one session will do. A bounded hold needs its own, because
        renewal has to stop for it and for nothing else."""
        if self.ttl is not None:
            return self.ttl
        return usual if self.is_bounded else None


class HoldKeywords(TypedDict, total=False):
    """The keywords of `lock` that do not say how many may hold it: those of `shared`, `semaphore` and `campaign`."""

    wait: float | None
    ttl: float | None
    max_hold: float | None
    progress_within: float | None
    context: str | None
    reentrant: bool
    on_unclean: OnUnclean
    delay: float | None
    require_clean: bool
    on_at_risk: Callable[[Grant, float], object] | None
    on_lost: Callable[[Grant], object] | None


class LockKeywords(HoldKeywords, total=False):
    """The keywords of `locked`, which are those of `lock`."""

    mode: Mode
    limit: int | None


def lock_options(
    *,
    wait: float | None = 0.0,
    ttl: float | None = None,
    max_hold: float | None = None,
    progress_within: float | None = None,
    context: str | None = None,
    reentrant: bool = False,
    mode: Mode = "exclusive",
    limit: int | None = None,
    on_unclean: OnUnclean = "grant",
    delay: float | None = None,
    require_clean: bool = False,
    hooks: Hooks | None = None,
) -> LockOptions:
    """Checked options. Raises `ValueError`."""
    asked = (wait, ttl, max_hold, progress_within, context, reentrant, mode, limit)
    if asked == _USUAL and (on_unclean, delay, require_clean, hooks) == _USUAL_END:
        return _OPTIONS
    if ttl is not None:
        check_ttl(ttl)
    return LockOptions(
        wait=check_wait(wait),
        ttl=ttl,
        max_hold=check_bound("max_hold", max_hold),
        progress_within=check_bound("progress_within", progress_within),
        context=check_note(context),
        reentrant=reentrant,
        terms=terms_of(mode, limit, on_unclean, delay, require_clean),
        hooks=NO_HOOKS if hooks is None else hooks,
    )


_USUAL: Final = (0.0, None, None, None, None, False, "exclusive", None)
_USUAL_END: Final = ("grant", None, False, NO_HOOKS)
_OPTIONS: Final = LockOptions()


def hooks_of(
    on_at_risk: Callable[[Grant, float], object] | None, on_lost: Callable[[Grant], object] | None
) -> Hooks:
    """The callbacks of one level (a client, or a lock)."""
    if on_at_risk is None and on_lost is None:
        return NO_HOOKS
    return Hooks(
        on_at_risk=() if on_at_risk is None else (on_at_risk,),
        on_lost=() if on_lost is None else (on_lost,),
    )


def check_ttl(ttl: float) -> None:
    """Raises `ValueError` for a TTL that no cluster takes."""
    if not (0 < ttl * MS_PER_SECOND <= wire.TTL_MS_MAX):
        raise ValueError(f"ttl is a number of seconds up to {wire.TTL_MS_MAX // 1000}, not {ttl!r}")


def check_wait(wait: float | None) -> float:
    """Seconds to wait, infinity for None. Raises `ValueError`."""
    if wait is None:
        return math.inf
    if not wait >= 0:
        raise ValueError(f"wait is a number of seconds, 0 or more, or None; not {wait!r}")
    return wait


def check_bound(name: str, seconds: float | None) -> float | None:
    """Raises `ValueError` for a bound that is none."""
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} is a positive number of seconds, or None; not {seconds!r}")
    return seconds


def keys_of(keys: str | Sequence[str]) -> tuple[str, ...]:
    """One key or several. Raises `ValueError` for none; everything else is for the cluster to judge."""
    found = (keys,) if isinstance(keys, str) else tuple(keys)
    if not found:
        raise ValueError("no key was given")
    return found
