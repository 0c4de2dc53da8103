"""The bytes of docs/stream.md are what a node takes and says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from holdfast import stream_wire as numbers
from holdfast.wire import Code
from holdfast_coordinator.http import stream, stream_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "stream.md").read_text()


class Shown(NamedTuple):
    """One frame of the page. `mark`: `>` from the client, `<` from the node."""

    mark: str
    value: Any
    data: bytes


def shown() -> Iterator[Shown]:
    for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for each in re.findall(r"^([<>]) (.*)\n((?: {4}[0-9a-f ]+\n)+)", block, re.MULTILINE):
            yield Shown(each[0], json.loads(each[1]), bytes.fromhex(each[2]))


async def test_the_exchange_is_what_a_node_says(caller):
    """Byte for byte, in this order, on one connection. What the page shows in one frame may come in two, if something else is
    decided in between."""
    frames = list(shown())
    assert len(frames) > 20
    async with caller.http.ws_connect(caller.url + numbers.STREAM_PATH) as socket:
        for frame in frames:
            if frame.mark == ">":
                await socket.send_bytes(frame.data)
                continue
            told: list[Any] = []
            entries = b""
            while len(told) < len(frame.value):
                data = await socket.receive_bytes(timeout=10.0)
                told += msgpack.unpackb(data)
                entries += data[1:]  # behind the head of the array
            assert told == frame.value
            assert entries == frame.data[1:]


def test_the_bytes_are_what_the_lines_above_them_say():
    """So that a reader may believe the JSON."""
    for frame in shown():
        assert msgpack.unpackb(frame.data) == frame.value


def test_every_kind_is_in_the_tables_with_all_its_fields():
    """A field that is added must be told here."""
    for kind, fields in stream_frames.FIELDS.items():
        row = re.findall(rf"^\| {kind} \| `\[{kind}, (.*?)\]` \|", PAGE, re.MULTILINE)[0]
        names = [each.partition("=")[0] for each in row.split(", ")]
        assert names == [{"names": "keys"}.get(each, each) for each in fields]
    answers = re.findall(r"^\| (\d+) \| `\[\1, (?:call|0)", PAGE, re.MULTILINE)
    told = {value for name, value in vars(numbers).items() if name in KINDS}
    assert {int(each) for each in answers} == told


KINDS = {
    "HELLO", "OPEN", "RENEW", "CLOSE", "ACQUIRE", "RELEASE", "CANCEL", "COMPLETE", "CHECKPOINT", "REFUSED", "ENDED", "FORCED",
    "WATCH", "EVENTS", "UNWATCH", "LEADER",
}  # fmt: skip


def test_the_bounds_of_the_page_are_those_of_the_node():
    """Numbers in prose grow old."""
    assert f"for {stream.RESUME_SECONDS:g} s after" in PAGE
    assert f"{stream.UNSENT_HIGH_BYTES // 1024} KiB are unread" in PAGE
    assert f"if {stream.UNSENT_MAX_BYTES // 1024**2} MiB have gathered" in PAGE
    assert f"silent for {stream.SILENCE_SECONDS:g} s" in PAGE
    assert f"first\n{stream.SESSIONS_TOLD_MAX:,}" in PAGE
    codes = (numbers.CLOSE_GOING_AWAY, numbers.CLOSE_PROTOCOL, numbers.CLOSE_TOO_BIG)
    assert all(f"\n| {code} | " in PAGE for code in codes)
    assert {Code.OVERLOADED.value, Code.NO_LEADER.value} <= set(re.findall(r"`(\w+)`", PAGE))
