"""What stands between a client and a simulated node where there is HTTP in front of a real one: the same bytes, without a socket.

Rule: nothing is made up here. Requests and answers are encoded and checked by the code of both sides of the stream
(`holdfast.stream_frames`, `holdfast_coordinator.http.stream_frames`); what has no place in a frame, by that of the plain call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast_coordinator.access import EVERYBODY
from holdfast_coordinator.http import bodies, requests, stream_frames, views
from holdfast_coordinator.http.calls import Calls
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.machine.outcomes import Granted

if TYPE_CHECKING:
    from holdfast_coordinator.machine import Limits
    from holdfast_coordinator.machine.operations import Operation
    from holdfast_coordinator.machine.outcomes import Outcome
    from holdfast_coordinator.node import Node
    from holdfast_coordinator.node_types import Unknown

NUMBER = 1
"""Of the call in its frame: each frame has one."""
HTTP_OK = 200


class Front:
    """Of one life of one node."""

    def __init__(self, node: Node, limits: Limits) -> None:
        nothing = cast("Any", None)  # neither metrics nor bounds of a server are asked for here
        self._calls = Calls(node, nothing, limits, nothing, _no_new_session)
        self._limits = limits

    def operation_of(self, request: bytes, *, is_frame: bool) -> Operation:
        """What the node is asked. Raises `Problem`."""
        if not is_frame:
            body = bodies.decode_acquire(request, msgpack=False)
            return requests.acquire(body, _no_new_session, self._limits)
        [entry] = stream_frames.decode_frame(request)
        if isinstance(entry, stream_frames.Wrong):
            raise entry.problem
        return stream_frames.operation_of(cast("Any", entry), self._limits)

    def answer_of(self, outcome: Outcome | Unknown, *, is_frame: bool) -> bytes:
        """The frame that tells the outcome; or, of a plain call, the JSON of [status, body]."""
        if is_frame:
            entry = stream_frames.answer_of(NUMBER, outcome)
            if entry is not None:
                return stream_frames.encode_frame([entry])
        elif isinstance(outcome, Granted):
            return msgspec.json.encode([HTTP_OK, views.grant_view(outcome)])
        return refused(self._calls.problem_of(EVERYBODY, outcome), is_frame=is_frame)


def refused(problem: Problem, *, is_frame: bool) -> bytes:
    """The same for what a node does not do."""
    if is_frame:
        return stream_frames.encode_frame([stream_frames.refused(NUMBER, problem)])
    return msgspec.json.encode([problem.status, problem.body()])


def _no_new_session() -> str:
    raise AssertionError("a request brings its session")
