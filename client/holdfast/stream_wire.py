"""The numbers of the stream (`GET /v1/stream`) that client and coordinator share. docs/stream.md tells the protocol.

Rule: constants only, as in `wire.py`. An operation and the answer that grants it have the same number.
"""

from __future__ import annotations

from typing import Final

from holdfast import wire

STREAM_PATH: Final = f"{wire.API_PREFIX}/stream"
STREAM_VERSION: Final = 1

HELLO: Final = 0
"""The first thing that a node says."""
OPEN: Final = 1
RENEW: Final = 2
CLOSE: Final = 3
ACQUIRE: Final = 4
RELEASE: Final = 5
CANCEL: Final = 6
COMPLETE: Final = 7
CHECKPOINT: Final = 8
REFUSED: Final = 9
"""Any operation that did not succeed, or whose outcome is unknown: the status and the problem of the plain call."""
ENDED: Final = 10
"""Pushed: a session of this connection has ended, and everything that it held."""
FORCED: Final = 11
"""Pushed: an operator ended holds of a session of this connection."""

WATCH: Final = 12
"""Follow what happens; the answer says from where on."""
EVENTS: Final = 13
"""From the node: what happened. From the client: room for so many more."""
UNWATCH: Final = 14
"""No more of it."""

LEADER: Final = 15
"""Pushed: another node leads; its name, and where callers find it."""

EVENTS_WINDOW_MAX: Final = 1_024
"""Events of one watch that may be on their way. What happened meanwhile stands in the trail, and is read when there is room."""
WATCHES_MAX: Final = 16
"""Watches of one connection."""

WINDOW: Final = 16_384
"""Operations of one connection that may be unanswered, waiting acquires included. What is beyond it is refused as `overloaded`."""
FRAME_OPERATIONS_MAX: Final = 512
"""Of one frame, so that a node takes one in a few milliseconds and goes on with others."""
FRAME_BYTES_MAX: Final = 256 * 1024
"""Of one frame to a node; the largest operation (64 keys of 512 bytes) is an eighth of it."""

CLOSE_GOING_AWAY: Final = 1001
"""WebSocket: the node stops; go on with another."""
CLOSE_PROTOCOL: Final = 1002
"""WebSocket: a frame could not be read."""
CLOSE_TOO_BIG: Final = 1009
"""WebSocket: a frame was larger than `FRAME_BYTES_MAX` or had more operations than `FRAME_OPERATIONS_MAX`."""
