"""What a node tells of itself (`GET /v1/cluster/node`), and when it was asked. For `holdfast status` and `holdfast doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeReport:
    """`asked_at`, `answered_at`: seconds on the client's clock around the call. `raw`: the answer, as openapi.yaml describes it.
    `leader` None: the node knows none, or is not connected with the one that it knew last."""

    node: str
    version: str
    leader: str | None
    ready: bool
    clock: float
    """The node's clock, in seconds: only the difference of two of them says anything."""
    asked_at: float
    answered_at: float
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def report_of(raw: Mapping[str, Any], asked_at: float, answered_at: float) -> NodeReport:
    """Of the body of an answer."""
    node, leader = str(raw["node"]), raw["leader"]
    # A node that hears nothing goes on to name the leader that it heard last, until there is another.
    near = {node, *(peer["name"] for peer in raw["peers"] if peer["connected"])}
    return NodeReport(
        node=node,
        version=str(raw["version"]),
        leader=leader if leader in near else None,
        ready=bool(raw["ready"]),
        clock=int(raw["clock_us"]) / 1e6,
        asked_at=asked_at,
        answered_at=answered_at,
        raw=raw,
    )
