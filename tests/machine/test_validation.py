"""What the machine lets through without a closer look is what a closer look would let through."""

from __future__ import annotations

import sys

from holdfast_coordinator.machine.validation import FORBIDDEN_CHARACTERS


def test_printable_text_has_no_forbidden_character() -> None:
    """Each character that there is: printable ones are neither control characters nor lone surrogates."""
    printable = "".join(filter(str.isprintable, map(chr, range(sys.maxunicode + 1))))
    assert FORBIDDEN_CHARACTERS.search(printable) is None
    assert len(printable) > 100_000
