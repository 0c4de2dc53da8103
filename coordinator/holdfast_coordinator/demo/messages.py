"""The payment messages of a file: JSON Lines or CSV, read whole, and judged line by line.

The rule: a malformed line is reported with its number, skipped, and counted; it stops nothing. What cannot be read at all (no such
file, not a file of lines) is a `MessagesError`. A message is `payment_id`, `customer`, `action` (collect or refund), `amount` (an
integer of minor units) and `currency`; other fields are somebody else's and are left alone. Nothing here knows locks or ledgers.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIELDS: Final = ("payment_id", "customer", "action", "amount", "currency")
ACTIONS: Final = ("collect", "refund")

MESSAGES_MAX: Final = 100_000
"""The queue of the demo lives in memory. A file with more lines than this is a load test, and there are better tools for one."""

LINE_BYTES_MAX: Final = 8 * 1024
"""Five short fields. A longer line is not a message, and parsing it would only cost time."""

MALFORMED_KEPT_MAX: Final = 20
"""So many malformed lines are shown; all are counted."""

NAME_BYTES_MAX: Final = 256
"""Of a payment id; the ledger's limit."""

CUSTOMER_BYTES_MAX: Final = 200
"""Of a customer: with what stands around it in `lock_key`, within the 512 bytes of a key, and within the ledger's limit."""

AMOUNT_MINOR_MAX: Final = 10**12
"""The ledger's limit."""

_DIGITS = re.compile(r"[0-9]{1,15}")
_CURRENCY = re.compile(r"[A-Z]{3}")


class MessagesError(Exception):
    """The file cannot be used at all; `str()` is a sentence for whoever named it."""


@dataclass(frozen=True)
class Message:
    """One order to move money. Two messages with the same `payment` and `action` are deliveries of the same order."""

    payment: str
    customer: str
    action: str
    amount: int
    currency: str

    @property
    def order(self) -> tuple[str, str]:
        """What must happen once, however many messages ask for it."""
        return (self.payment, self.action)

    @property
    def order_key(self) -> str:
        """Under which the cluster remembers that this order is done. Not the customer's: other orders of the customer are not."""
        return f"orders/{self.payment}/{self.action}"

    @property
    def lock_key(self) -> str:
        """Two orders of one customer and one action never run at the same time."""
        return f"payments/{self.customer}/{self.action}"


@dataclass(frozen=True)
class Malformed:
    """A line that is no message. `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True)
class Intake:
    """What a file had: the messages in their order, the first malformed lines, and the number of all malformed ones."""

    messages: tuple[Message, ...]
    malformed: tuple[Malformed, ...]
    malformed_count: int


def read_messages(path: Path) -> Intake:
    """Read a file of messages: CSV with a header line if its name ends in `.csv`, else JSON Lines.

    Raises `MessagesError` if it cannot be read, has no usable header, or holds more than `MESSAGES_MAX` messages.
    """
    messages: list[Message] = []
    malformed: list[Malformed] = []
    malformed_count = 0
    try:
        with path.open("rb") as file:
            rows = _csv_rows(file) if path.suffix.lower() == ".csv" else _json_rows(file)
            for line, row in rows:
                try:
                    messages.append(_message(row))
                except ValueError as error:
                    malformed_count += 1
                    if len(malformed) < MALFORMED_KEPT_MAX:
                        malformed.append(Malformed(line, str(error)))
                if len(messages) > MESSAGES_MAX:
                    raise MessagesError(
                        f"{path}: more than {MESSAGES_MAX} messages; the demo keeps them in memory"
                    )
    except OSError as error:
        raise MessagesError(f"{path}: {error.strerror or error}") from None
    except _HeaderError as error:
        raise MessagesError(f"{path}: {error}") from None
    return Intake(tuple(messages), tuple(malformed), malformed_count)


class _HeaderError(Exception):
    """The first line of a CSV file does not name the five fields."""


def _lines(file: Any) -> Iterator[tuple[int, str | ValueError]]:
    """Number the lines. One that is too long, or is not UTF-8, comes as the error that says so, and is never kept whole."""
    number = 0
    while raw := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        complete = raw.endswith(b"\n")
        if len(raw) > LINE_BYTES_MAX and not complete:
            while (rest := file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                pass
            yield number, ValueError(f"longer than {LINE_BYTES_MAX} bytes")
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # what some spreadsheets put in front
        try:
            yield number, raw.decode()
        except UnicodeDecodeError:
            yield number, ValueError("not UTF-8 text")


def _json_rows(file: Any) -> Iterator[tuple[int, object]]:
    for number, text in _lines(file):
        if isinstance(text, ValueError):
            yield number, text
        elif text.strip():
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = ValueError("not a JSON object")
            yield number, row


def _csv_rows(file: Any) -> Iterator[tuple[int, object]]:
    """One record a line: none of the five fields can contain a line break, so a quote that stays open is malformed here."""
    header: list[str] | None = None
    for number, text in _lines(file):
        if not isinstance(text, ValueError) and not text.strip():
            continue
        cells: list[str] | ValueError
        try:
            cells = text if isinstance(text, ValueError) else next(csv.reader([text], strict=True))
        except csv.Error as error:
            cells = ValueError(f"not CSV: {error}")
        if header is None:
            header = (
                [] if isinstance(cells, ValueError) else [cell.strip().lower() for cell in cells]
            )
            missing = [name for name in FIELDS if name not in header]
            if missing:
                raise _HeaderError(f"line {number}: the header lacks {', '.join(missing)}")
            continue
        if not isinstance(cells, ValueError) and len(cells) != len(header):
            cells = ValueError(f"{len(cells)} fields where the header has {len(header)}")
        if isinstance(cells, ValueError):
            yield number, cells
            continue
        row: dict[str, object] = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        amount = str(row["amount"])
        row["amount"] = int(amount) if _DIGITS.fullmatch(amount) else amount
        yield number, row


def _message(row: object) -> Message:
    """Return the message of a row; raise `ValueError`, naming the field, for what is none."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - every fault of a line is one kind of error
    for name in FIELDS:
        if name not in row:
            raise ValueError(f"{name}: missing")
    amount, currency, action = row["amount"], row["currency"], row["action"]
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise ValueError("amount: an integer of minor units is needed")  # noqa: TRY004 - as above
    if not 1 <= amount <= AMOUNT_MINOR_MAX:
        raise ValueError(f"amount: between 1 and {AMOUNT_MINOR_MAX} is needed")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise ValueError("currency: three capital letters are needed")
    if action not in ACTIONS:
        raise ValueError(f"action: {' or '.join(ACTIONS)} is needed")
    payment = _name("payment_id", row["payment_id"], NAME_BYTES_MAX)
    customer = _name("customer", row["customer"], CUSTOMER_BYTES_MAX)
    return Message(payment, customer, action, amount, currency)


def _name(field: str, value: object, bytes_max: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field}: text is needed")  # noqa: TRY004 - every fault of a line is one kind of error
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{field}: not valid Unicode text") from None
    if not 1 <= length <= bytes_max:
        raise ValueError(f"{field}: 1 to {bytes_max} bytes are needed")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError(f"{field}: contains a control character")
    return value
