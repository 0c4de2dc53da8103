"""Server-sent events as they arrive in pieces (WHATWG HTML, section 9.2). Pure: bytes in, events out.

Rule: an event exists when its blank line has come; what was cut off in the middle never does. What is kept between two pieces is
bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVENT_BYTES_MAX: Final = 1024 * 1024
"""64 keys of 512 bytes, escaped as badly as JSON can, with every other field at its limit, are less than a quarter of it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One block of the stream. `data` None: it only moved the id on (a sign of life)."""

    id: str | None
    event: str
    data: str | None


class Malformed(ValueError):
    """Not a stream of events, or one of endless lines."""


class Parser:
    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Frame]:
        """The blocks that this piece completes. Raises `Malformed`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        frames: list[Frame] = []
        for line in (each.removesuffix(b"\r") for each in lines):
            self._size += len(line)
            if line:
                self._lines.append(line)
            elif self._lines:
                frames.append(_frame(self._lines))
            if not line:
                self._lines, self._size = [], 0
            self._check(self._size)
        self._check(self._size + len(self._rest))
        return frames

    def _check(self, size: int) -> None:
        if size > EVENT_BYTES_MAX:
            raise Malformed(f"an event is longer than {EVENT_BYTES_MAX} bytes")


def _frame(lines: list[bytes]) -> Frame:
    fields: dict[str, list[str]] = {}
    for line in lines:
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError as error:
            raise Malformed("the stream is not UTF-8") from error
        fields.setdefault(name, []).append(value.removeprefix(" "))
    data = fields.get("data")
    return Frame(
        id=fields["id"][-1] if "id" in fields else None,
        event=fields.get("event", ["message"])[-1],
        data=None if data is None else "\n".join(data),
    )
