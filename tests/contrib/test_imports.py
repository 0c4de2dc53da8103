"""Nobody needs a framework that he does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"celery", "django", "starlette", "fastapi", "prometheus_client"}


@pytest.mark.parametrize(
    ("module", "brings"),
    [
        ("holdfast", set()),
        ("holdfast.contrib", set()),
        ("holdfast.contrib.leading", set()),
        ("holdfast.fencing", set()),
        ("holdfast_ledger", set()),
        ("holdfast.contrib.celery", {"celery"}),
        ("holdfast.contrib.django", {"django"}),
        ("holdfast.contrib.prometheus", {"prometheus_client"}),
        ("holdfast.contrib.starlette", set()),  # needs starlette's protocol alone, not its code
    ],
)
def test_a_framework_is_imported_by_its_own_module_only(module: str, brings: set[str]) -> None:
    """Whoever installs one extra has one framework. Click and rich are the command's."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    if (
        module == "holdfast.contrib.celery"
    ):  # Celery has a command line, and looks whether Django is there
        loaded -= {"click", "rich", "django"}
    assert loaded & FRAMEWORKS == brings
    assert not loaded & {"click", "rich"}
