"""Reading messages: what is a message, what is not, and that one bad line stops nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.demo import messages as module
from holdfast_coordinator.demo.messages import Malformed, Message, MessagesError, read_messages
from holdfast_coordinator.demo.sample import SAMPLE_FILE, as_text

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {
    "payment_id": "p-1",
    "customer": "1234",
    "action": "collect",
    "amount": 1999,
    "currency": "EUR",
}


def write(path: Path, *lines: object) -> Path:
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def test_json_lines_become_messages(tmp_path: Path) -> None:
    """Five fields make a message; others are left alone; empty lines are nothing."""
    intake = read_messages(
        write(tmp_path / "m.jsonl", GOOD, b"", GOOD | {"note": "x", "action": "refund"})
    )
    assert intake.messages == (
        Message("p-1", "1234", "collect", 1999, "EUR"),
        Message("p-1", "1234", "refund", 1999, "EUR"),
    )
    assert intake.malformed_count == 0
    assert [message.lock_key for message in intake.messages] == [
        "payments/1234/collect",
        "payments/1234/refund",
    ]


def test_csv_becomes_messages_too(tmp_path: Path) -> None:
    """A header names the columns, in any order and case; quotes, a byte order mark and CRLF are welcome."""
    path = tmp_path / "m.CSV"
    path.write_bytes(
        b"\xef\xbb\xbfPayment_ID,amount,currency,action,customer,note\r\n"
        b'"p,1", 1999 ,EUR,collect,1234,\r\n'
        b"\r\n"
        b"p-2,19.99,EUR,collect,1234,\r\n"
        b"p-3,5,EUR,collect,1234\r\n"
        b'p-4,5,EUR,collect,"open,\r\n'
        b"p-5,5,EUR,refund,77,\r\n"
    )
    intake = read_messages(path)
    assert intake.messages == (
        Message("p,1", "1234", "collect", 1999, "EUR"),
        Message("p-5", "77", "refund", 5, "EUR"),
    )
    assert [bad.line for bad in intake.malformed] == [4, 5, 6]
    assert intake.malformed[1].reason == "5 fields where the header has 6"


def test_a_csv_file_without_its_header_is_refused(tmp_path: Path) -> None:
    """Without column names nothing can be told apart, so nothing is guessed."""
    path = write(tmp_path / "m.csv", b"p-1,1234,collect,5,EUR")
    with pytest.raises(MessagesError, match="line 1: the header lacks payment_id, customer"):
        read_messages(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"[" * 5000, "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"' + b"x" * 9000 + b'"', "longer than 8192 bytes"),
        ({key: GOOD[key] for key in GOOD if key != "amount"}, "amount: missing"),
        (GOOD | {"amount": 19.99}, "amount: an integer"),
        (GOOD | {"amount": "5"}, "amount: an integer"),
        (GOOD | {"amount": True}, "amount: an integer"),
        (GOOD | {"amount": 0}, "amount: between"),
        (GOOD | {"amount": 10**12 + 1}, "amount: between"),
        (GOOD | {"currency": "eur"}, "currency:"),
        (GOOD | {"action": "capture"}, "action: collect or refund"),
        (GOOD | {"action": ["collect"]}, "action: collect or refund"),
        (GOOD | {"payment_id": ""}, "payment_id: 1 to 256"),
        (GOOD | {"payment_id": 7}, "payment_id: text"),
        (GOOD | {"customer": "a\nb"}, "customer: contains a control"),
        (GOOD | {"customer": "\ud800"}, "customer: not valid Unicode"),
        (GOOD | {"customer": "é" * 101}, "customer: 1 to 200"),
    ],
)
def test_a_malformed_line_is_named_and_stops_nothing(
    tmp_path: Path, line: object, reason: str
) -> None:
    """The line before and the line after are read; the bad one is reported under its number."""
    intake = read_messages(write(tmp_path / "m.jsonl", GOOD, line, GOOD))
    assert len(intake.messages) == 2
    assert intake.malformed_count == 1
    assert intake.malformed[0].line == 2
    assert reason in intake.malformed[0].reason


def test_all_malformed_lines_are_counted_and_some_are_kept(tmp_path: Path) -> None:
    """A file that is all wrong is reported in a few lines."""
    intake = read_messages(write(tmp_path / "m.jsonl", *[b"no"] * 50))
    assert (len(intake.malformed), intake.malformed_count) == (20, 50)
    assert intake.malformed[0] == Malformed(1, "not a JSON object")


def test_what_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    """No such file, a folder, too many messages: one sentence that names the file."""
    with pytest.raises(MessagesError, match=r"none\.jsonl: No such file"):
        read_messages(tmp_path / "none.jsonl")
    with pytest.raises(MessagesError, match="Is a directory"):
        read_messages(tmp_path)


def test_too_many_messages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of the demo has a bound, and says so."""
    monkeypatch.setattr(module, "MESSAGES_MAX", 2)
    with pytest.raises(MessagesError, match="more than 2 messages"):
        read_messages(write(tmp_path / "m.jsonl", GOOD, GOOD, GOOD))


@given(st.binary(max_size=300), st.sampled_from(["m.jsonl", "m.csv"]))
def test_no_bytes_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str
) -> None:
    """Whatever is in the file: messages, malformed lines, or one clear refusal."""
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(b"payment_id,customer,action,amount,currency\n" * (name == "m.csv") + raw)
    read_messages(path)


def test_the_sample_is_what_the_generator_gives() -> None:
    """The committed file and the committed generator never drift apart."""
    assert SAMPLE_FILE.read_text() == as_text()


def test_the_sample_has_what_the_demo_is_about() -> None:
    """Hundreds of messages of many customers, collects and refunds, with many duplicates, none of them malformed."""
    intake = read_messages(SAMPLE_FILE)
    orders = [message.order for message in intake.messages]
    assert intake.malformed_count == 0
    assert len(orders) >= 300
    assert len(orders) - len(set(orders)) >= 80
    assert len({message.customer for message in intake.messages}) >= 50
    assert {message.action for message in intake.messages} == {"collect", "refund"}
    collects = {message.payment for message in intake.messages if message.action == "collect"}
    assert all(message.payment in collects for message in intake.messages), (
        "every refund has its collect"
    )
