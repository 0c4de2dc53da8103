"""Sixty seconds to see a stale writer refused. Needs a running cluster (`holdfast up`), and nothing else.

A worker takes a lock over plain HTTP and stalls past its lease. Another one gets the lock and captures the payment. Then the first
one wakes up in the middle of its work and writes. Without a fence the customer would pay twice.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from pathlib import Path

import holdfast
from holdfast.fencing import Stale
from holdfast_ledger import Ledger

LOCK = "payments/1234/collect"


def main(endpoints: str) -> None:
    first_node = endpoints.split(",")[0]
    # Nothing renews this lock: that is what a stalled worker looks like from outside.
    asked = urllib.request.Request(  # noqa: S310 -- the address is the reader's own cluster
        f"{first_node}/v1/locks/acquire",
        json.dumps({"key": LOCK, "ttl_ms": 2000, "owner": "early"}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310 -- as above
        early = json.load(answer)
    print(f"early worker: granted with fence {early['fence']}, and now it stalls")

    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db") as ledger:

        def capture(fence: int) -> None:
            ledger.capture(
                LOCK, payment="p-1", customer="1234", amount=1999, currency="EUR", fence=fence
            )

        with (
            holdfast.connect_sync(endpoints, owner="late") as client,
            client.lock(LOCK, wait=10) as grant,
        ):
            ended = grant.previous.ended if grant.previous else "unknown"
            print(f"late worker:  granted with fence {grant.fence}; the last hold has {ended}")
            ledger.raise_floor(LOCK, grant.fence)
            capture(grant.fence)
            print("late worker:  captured 19.99 EUR")
        try:
            capture(early["fence"])
        except Stale as refusal:
            print(f"early worker: wakes up, writes, and is refused: {refusal}")
        else:
            raise SystemExit("the stale write was taken: this must not happen")


if __name__ == "__main__":
    main(
        sys.argv[1]
        if len(sys.argv) > 1
        else "http://127.0.0.1:7601,http://127.0.0.1:7602,http://127.0.0.1:7603"
    )
