"""The sample messages of the demo, and the small generator that wrote them.

The rule: the committed file is exactly what `generate()` gives (a test compares them). To change the sample, change this file and
run `python -m holdfast_coordinator.demo.sample > sample_messages.jsonl` in this folder.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Final

SAMPLE_FILE: Final = Path(__file__).parent / "sample_messages.jsonl"

_SEED: Final = 20
_CUSTOMERS: Final = 60
_PAYMENTS: Final = 180
_REFUNDED_SHARE: Final = 0.2
_REPEATED_SHARE: Final = 0.4
"""Of the messages, how many the queue delivers twice by itself: far more than a real one, to see something."""


def generate() -> list[dict[str, object]]:
    """Return some three hundred messages: collects of many customers, refunds of a few, and duplicates of both among them."""
    rng = random.Random(_SEED)  # noqa: S311 - a sample, not a secret  # nosec B311
    orders: list[tuple[float, dict[str, object]]] = []
    for number in range(1, _PAYMENTS + 1):
        collect: dict[str, object] = {
            "payment_id": f"pay-{number:04d}",
            "customer": str(1000 + rng.randrange(_CUSTOMERS)),
            "action": "collect",
            "amount": rng.choice((499, 999, 1999, 2495, 4900, 12900)),
            "currency": rng.choice(("EUR", "EUR", "EUR", "USD", "GBP")),
        }
        place = rng.random() * 0.8
        orders.append((place, collect))
        if rng.random() < _REFUNDED_SHARE:
            amount = rng.choice((collect["amount"], 250))
            orders.append(
                (place + rng.random() * 0.2, collect | {"action": "refund", "amount": amount})
            )
    for place, order in list(orders):
        if rng.random() < _REPEATED_SHARE:
            orders.append((place + rng.random() * 0.1, order))
    return [order for _, order in sorted(orders, key=lambda placed: placed[0])]


def as_text() -> str:
    """Return the sample as JSON Lines."""
    return "".join(json.dumps(order, separators=(",", ":")) + "\n" for order in generate())


if __name__ == "__main__":
    sys.stdout.write(as_text())
