"""What happens when a server that a test needs cannot be brought.

Rule: loud. A test that needs it FAILS with a sentence, unless whoever runs the tests has said that it may be missing; only then
it is skipped, with the same sentence.
"""

from __future__ import annotations

import os
from typing import Final, NoReturn

import pytest

ACCEPTED: Final = "HOLDFAST_TEST_WITHOUT"
"""Names of servers, separated by commas, that may be missing: `HOLDFAST_TEST_WITHOUT=redis,postgres make test`."""


def cannot_run(server: str, why: str) -> NoReturn:
    """End the test: failed, or skipped where the absence of `server` is accepted."""
    sentence = f"no {server} server could be brought: {why}"
    if server in os.environ.get(ACCEPTED, "").split(","):
        pytest.skip(f"{sentence} ({ACCEPTED} accepts that)")
    pytest.fail(f"{sentence}. To go without it, set {ACCEPTED}={server}", pytrace=False)
