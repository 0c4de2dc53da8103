"""The name under which a payment goes to a provider outside, which never looks at a fence.

The rule: the key comes from the payment alone. Every holder that ever works on a payment, stale or current, sends the same key,
so the provider collapses their calls into one. Were the token in it, each holder would pay once more.
"""

from __future__ import annotations

import hashlib
from typing import Final

_DIGEST_CHARACTERS: Final = 40
"""160 bits: no two payments of this world share a key, and every known provider's limit (the tightest is 64) is kept."""


def idempotency_key(payment: str, action: str) -> str:
    """Return the idempotency key of `action` ("capture", "refund", or a caller's own) on `payment`: the same for ever.

    It is a hash, so that a payment id that is personal data does not travel in a header. The length of each part stands before
    it: ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.sha256()
    for part in (action, payment):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return f"holdfast-{digest.hexdigest()[:_DIGEST_CHARACTERS]}"
