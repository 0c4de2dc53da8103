"""Whether a node takes callers and, if not, why: in words, for the log, the service manager and whoever asks.

Rule: the node decides (`is_ready`); this only says it. A change is logged once, when it happens.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from holdfast_coordinator.node_types import NodePort

log = structlog.get_logger("holdfast.readiness")


def why_not_ready(node: NodePort) -> str | None:
    """None: it is ready. Else a few words."""
    if node.is_ready:
        return None
    status = node.status()
    if status.leader is None:
        unreachable = [each.name for each in status.nodes if each.state == "unreachable"]
        alone = f"; not connected: {', '.join(sorted(unreachable))}" if unreachable else ""
        return f"no leader is known{alone}"
    lag_ms = node.lag_ms
    if lag_ms is None:
        return f"catching up: {status.applied_index} entries applied, {status.commit_index} known to be committed"
    return f"behind what is committed for {lag_ms} ms"


def sentence(node: NodePort) -> str:
    """The node in one line: `leader in term 7, serving`."""
    status = node.status()
    role = "leader" if status.leader == status.node else f"follower of {status.leader or 'nobody'}"
    why = why_not_ready(node)
    return f"{role} in term {status.term}, {'serving' if why is None else f'not ready: {why}'}"


LOOK_SECONDS: Final = 0.25
"""As often as the node keeps house: more would find nothing new."""


class ReadinessLog:
    """Looks from time to time; tells the log when the answer is another one than before."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._was_ready: bool | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look now, and again and again."""
        self.look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        ready = self._node.is_ready
        if ready == self._was_ready:
            return
        self._was_ready = ready
        name = self._node.status().node
        if ready:
            log.info("ready", node=name)
        else:
            log.warning("not_ready", node=name, reason=why_not_ready(self._node))
