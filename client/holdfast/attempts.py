"""What can come of one attempt besides an answer. Shared by `transport.py` and `streams.py`, which know nothing of each other's
work."""

from __future__ import annotations


class NotSent(Exception):
    """No connection came about: the request took no effect."""


class NoAnswer(Exception):
    """The request may have been taken, and no usable answer came."""
