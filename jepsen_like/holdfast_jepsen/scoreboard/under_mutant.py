"""A plugin of pytest: the tests of this process run under the mutant that an environment variable names; none, if it is empty.

A test that breaks proves nothing of what it tests: what ends it must be an assertion, or an error that the mutant's row names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from holdfast_jepsen.scoreboard.by_test import BROKEN_STATUS, MUTANT_VARIABLE, by_name, enter

if TYPE_CHECKING:
    from collections.abc import Sequence

ASSERTIONS = (AssertionError, pytest.fail.Exception)
name = os.environ.get(MUTANT_VARIABLE, "")
if name:
    undo = enter(name)  # kept: with it would go what is in place
broken: list[str] = []


def is_verdict(error: BaseException, errors: Sequence[str] = ()) -> bool:
    """Whether this says that the product is wrong. `errors`: names of types that say so too. A group says what all of it says."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_verdict(each, errors) for each in error.exceptions)
    return isinstance(error, ASSERTIONS) or type(error).__name__ in errors


def pytest_exception_interact(call: pytest.CallInfo[Any]) -> None:
    """A test has failed."""
    errors = by_name()[name].errors if name else ()
    if call.excinfo is not None and not is_verdict(call.excinfo.value, errors):
        broken.append(repr(call.excinfo.value))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say so to whoever reads the status."""
    if broken:
        session.exitstatus = BROKEN_STATUS
