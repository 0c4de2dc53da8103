"""What a service manager such as systemd is told: that this node serves, that it is alive, that it stops (sd_notify(3)).

Rule: one datagram for each word, to the socket that NOTIFY_SOCKET names, and nothing waits for it: a manager that does not listen
costs the node nothing. The watchdog hears WATCHDOG=1 from the event loop itself, and only while `is_alive` says so; a loop that
hangs says nothing, and the manager kills and restarts the node. Not being ready is no reason: a node without a majority is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

PINGS_PER_WATCHDOG: Final = 3
"""Of the time that the manager gives: two may be late (a collection, a snapshot taken over) before the node is killed."""

STATUS_SECONDS: Final = 5.0
"""How old the line of `systemctl status` may be, where no watchdog asks more often."""

STATUS_CHARS_MAX: Final = 200
"""A line for people, in `systemctl status`."""


class ServiceManager:
    """`address`: of a datagram socket, `@` for the abstract namespace; None: there is no manager, and nothing is sent.
    `watchdog_seconds`: how long it lets a node be silent; None: for ever."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.ping_seconds = (
            None if watchdog_seconds is None else watchdog_seconds / PINGS_PER_WATCHDOG
        )
        self._status = ""
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """The one that started process `pid`. Its variables are taken out of `environ`: no child speaks in this node's name."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)
        watched = address is not None and meant and microseconds.isdigit() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if watched else None)

    def ready(self, is_alive: Callable[[], bool], status: Callable[[], str]) -> None:
        """The node serves. From now on the watchdog is fed while `is_alive`, and `status` is told when it has changed."""
        self._status = _line(status())
        self._send(f"READY=1\nSTATUS={self._status}")
        self._beat(is_alive, status)

    def stopping(self) -> None:
        """The node ends, because it was asked to or had to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send("STOPPING=1\nSTATUS=stopping")

    def _beat(self, is_alive: Callable[[], bool], status: Callable[[], str]) -> None:
        if self._address is None:
            return
        words = []
        if self.ping_seconds is not None and is_alive():
            words.append("WATCHDOG=1")
        if (now := _line(status())) != self._status:
            self._status = now
            words.append(f"STATUS={now}")
        if words:
            self._send("\n".join(words))
        delay = self.ping_seconds or STATUS_SECONDS
        self._timer = asyncio.get_running_loop().call_later(
            min(delay, STATUS_SECONDS), self._beat, is_alive, status
        )

    def _send(self, words: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            # Whoever does not listen loses the word; if it was the watchdog's, it does what it was told to do then.
            with contextlib.suppress(OSError):
                sender.connect(
                    "\0" + self._address[1:] if self._address[0] == "@" else self._address
                )
                sender.send(words.encode())


def _line(status: str) -> str:
    return status.replace("\n", " ")[:STATUS_CHARS_MAX]
