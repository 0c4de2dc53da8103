"""A line to PostgreSQL that breaks where a test says so, in front of a statement or between its effect and its answer.

Rule: nothing here knows time. It reads what the client sends, and breaks the connection at the first message that contains `word`.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from types import TracebackType

Break = Literal["before", "after"]


class LossyLine:
    """Listens on a free port of loopback, and forwards to `port` of the server."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._plan: tuple[bytes, Break] | None = None
        self.breaks = 0
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def break_once(self, word: bytes, when: Break) -> None:
        """The next message with `word`: `before`, the server never gets it; `after`, the client never gets its answer."""
        self._plan = (word, when)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            answering = threading.Event()
            self._run(self._carry_questions, client, server, answering)
            self._run(self._carry_answers, server, client, answering)

    def _carry_questions(
        self, client: socket.socket, server: socket.socket, breaking: threading.Event
    ) -> None:
        while message := _received(client):
            if self._plan is not None and self._plan[0] in message:
                when = self._plan[1]
                self._plan = None
                self.breaks += 1
                if when == "before":
                    break
                breaking.set()
            if not _sent(server, message):
                break
        _shut(client)
        if not breaking.is_set():
            _shut(server)

    def _carry_answers(
        self, server: socket.socket, client: socket.socket, breaking: threading.Event
    ) -> None:
        """The first answer after the break has been planned shows that the statement took effect; it goes nowhere."""
        while answer := _received(server):
            if breaking.is_set() or not _sent(client, answer):
                break
        _shut(server)
        _shut(client)


def _received(peer: socket.socket) -> bytes:
    try:
        return peer.recv(1 << 16)
    except OSError:
        return b""


def _sent(peer: socket.socket, message: bytes) -> bool:
    try:
        peer.sendall(message)
    except OSError:
        return False
    return True


def _shut(peer: socket.socket) -> None:
    try:
        peer.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster
