"""A node as its engine sees it, with everything that it applies also told to the invariants, and points to be killed at.

Rule: it changes nothing. It knows one node; what others applied, the invariants know.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.machine import check_invariants
from holdfast_coordinator.machine.outcomes import Granted

if TYPE_CHECKING:
    from collections.abc import Generator

    from holdfast_coordinator.node import Node
    from holdfast_jepsen.checker.raft_invariants import RaftInvariants
    from holdfast_jepsen.sim.server import Server

STATE_HASH_EVERY = 64
"""The whole state is hashed at every so manieth index; the entry, the last token and the cluster's time are compared at each."""


class WatchedHost:
    """See the module."""

    def __init__(self, watch: RaftInvariants, server: Server, node: Node) -> None:
        self._watch = watch
        self._server = server
        self._node = node
        self._expected = 0
        self.next_batch = node.next_batch
        self.on_message = node.on_message
        self.on_peer_connected = node.on_peer_connected
        self.on_leader = node.on_leader

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        self._server.pass_point("before apply")
        waits = self._apply(index, term, payload)
        self._server.pass_point("after apply")
        return waits

    def _apply(self, index: int, term: int, payload: bytes) -> bool:
        if index <= self._expected:
            self._watch.violated(f"{self._server.name} applied entry {index} twice")
        self._expected = index
        watch = self._watch
        # The outcomes are seen once, by applying to the same machine through its own method.
        apply = self._node.apply if index in watch.states else self._apply_and_look
        waits = apply(index, term, payload)
        machine = self._node.machine
        digest = hashlib.blake2b(payload, digest_size=16)
        digest.update(b"%d %d" % (machine.last_token, machine.cluster_time_ms))
        if index % STATE_HASH_EVERY == 0:
            check_invariants(machine)
            digest.update(machine.state_hash())
        watch.on_applied(self._server, index, payload, digest.digest())
        return waits

    def _apply_and_look(self, index: int, term: int, payload: bytes) -> bool:
        machine = self._node.machine
        apply = machine.apply
        seen: list[Any] = []

        def looking(entry: Any) -> Any:
            outcomes = apply(entry)
            seen.extend(outcomes)
            return outcomes

        machine.apply = looking  # type: ignore[method-assign]
        try:
            waits = self._node.apply(index, term, payload)
        finally:
            del machine.apply
        for origin, outcome in seen:
            self._watch.on_wait(origin, outcome, self._server.world.now)
            if isinstance(outcome, Granted):
                self._watch.on_grant(outcome)
        return waits

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        yield from self._node.restore(index, term, payload)
        self._expected = index
