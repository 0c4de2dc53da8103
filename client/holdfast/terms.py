"""On what terms a lock is asked for: exclusive, shared or with permits, and what becomes of its keys after an unclean end.

Rule: values only, checked here; nothing of this is sent unless it was asked for, so that a plain lock is the same request as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from holdfast import wire

Mode: TypeAlias = Literal["exclusive", "shared"]
OnUnclean: TypeAlias = Literal["grant", "delay", "refuse"]


@dataclass(frozen=True, slots=True)
class Terms:
    """`limit` None: no number of permits; `delay` in seconds, None unless `on_unclean` is `delay`."""

    mode: Mode = "exclusive"
    limit: int | None = None
    on_unclean: OnUnclean = "grant"
    delay: float | None = None
    require_clean: bool = False

    def body(self) -> dict[str, Any]:
        """The fields of the request: those that say something."""
        body: dict[str, Any] = {}
        if self.mode != "exclusive":
            body["mode"] = self.mode
        if self.limit is not None:
            body["limit"] = self.limit
        if self.on_unclean != "grant":
            body["on_unclean"] = self.on_unclean
        if self.delay is not None:
            body["delay_ms"] = round(self.delay * wire.MS_PER_SECOND)
        if self.require_clean:
            body["require_clean"] = True
        return body


PLAIN: Final = Terms()
_PLAIN_FIELDS: Final = ("exclusive", None, "grant", None, False)


def terms_of(
    mode: Mode, limit: int | None, on_unclean: OnUnclean, delay: float | None, require_clean: bool
) -> Terms:
    """Checked terms. Raises `ValueError`."""
    if (mode, limit, on_unclean, delay, require_clean) == _PLAIN_FIELDS:
        return PLAIN
    if mode not in ("exclusive", "shared"):
        raise ValueError(f"mode is 'exclusive' or 'shared', not {mode!r}")
    if limit is not None:
        if mode != "shared":
            raise ValueError("a limit of holders is for mode='shared': an exclusive lock has one")
        if isinstance(limit, bool) or not (1 <= limit <= wire.LIMIT_MAX):
            raise ValueError(f"limit is between 1 and {wire.LIMIT_MAX}, not {limit!r}")
    if on_unclean not in ("grant", "delay", "refuse"):
        raise ValueError(f"on_unclean is 'grant', 'delay' or 'refuse', not {on_unclean!r}")
    if (delay is not None) != (on_unclean == "delay"):
        raise ValueError("delay belongs to on_unclean='delay', and that needs a delay")
    if delay is not None and not (1 <= delay * wire.MS_PER_SECOND <= wire.DELAY_MS_MAX):
        raise ValueError(f"delay is 0.001 to {wire.DELAY_MS_MAX // 1000} seconds, not {delay!r}")
    return Terms(mode, limit, on_unclean, delay, require_clean)
