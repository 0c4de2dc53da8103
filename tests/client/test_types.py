"""The types of the public API, as a user's type checker sees them: complete, and what the documents say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INTERNAL = ("holdfast.stores.", "holdfast.cli.")
"""Reached by an address, and by the command line: nobody imports them."""


def pyright(*arguments: str, cwd: Path = ROOT) -> dict[str, Any]:
    """What pyright says, as JSON. It looks for packages along PYTHONPATH, and does not follow the .pth of an editable install."""
    path = os.pathsep.join([str(ROOT / "client"), sysconfig.get_paths()["purelib"]])
    told = subprocess.run(  # noqa: S603 - a tool of ours
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_public_symbol_has_a_known_type() -> None:
    """`pyright --verifytypes holdfast`: nothing unknown, nothing left to inference."""
    told = pyright("--verifytypes", "holdfast", "--ignoreexternal")["typeCompleteness"]
    symbols = [each for each in told["symbols"] if each["isExported"]]
    assert told["pyTypedPath"], "py.typed is not there"
    assert len(symbols) > 300, "it has looked at the wrong package"
    untyped = [
        each["name"]
        for each in symbols
        if not each["isTypeKnown"] and not each["name"].startswith(INTERNAL)
    ]
    assert untyped == []


USES = """
import holdfast
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

hf = holdfast.connect("memory://")
blocking = holdfast.connect_sync("memory://")

@hf.locked("customer:{customer_id}")
async def collect(customer_id: int, *, amount: int = 1) -> str: ...

@hf.locked("customer:{customer_id}", on_held="skip", max_hold=60)
async def skipping(customer_id: int) -> str: ...

@blocking.locked(["a/{x}", "b/{x}"], on_held="wait")
def work(x: int) -> float: ...

@blocking.locked("a/{x}", on_held="skip")
def skipping_work(x: int) -> float: ...

async def uses() -> None:
    assert_type(await collect(1, amount=2), str)
    assert_type(await skipping(1), str | None)
    assert_type(work(1), float)
    assert_type(skipping_work(x=1), float | None)
    assert_type(await hf.acquire_lock("k", wait=None), bool)
    async with hf.lock("k", on_at_risk=lambda grant, left: print(grant.token + 1, left + 0.5)) as grant:
        assert_type(grant, holdfast.AsyncGrant)
        assert_type(grant.fence, int)
        assert_type(await grant.checkpoint("psp_called"), None)
        assert_type(grant.previous_checkpoint, holdfast.Checkpoint | None)
        with grant.guard(5.0) as same:
            assert_type(same, holdfast.Grant)
        assert_type(grant.previous, holdfast.Previous | None)
    with blocking.lock(["a", "b"]) as held:
        assert_type(held.lost_code, holdfast.LossCode | None)
        assert_type(held.complete("psp-77", retain=60), None)
    async with hf.semaphore("k", 2, wait=None) as permit, hf.lock("r", mode="shared") as shared:
        assert_type(permit, holdfast.SharedGrant)
        assert_type(shared.fence, int | None)
    async with hf.election("boss").campaign() as leadership:
        assert_type(leadership.epoch, int)
    async for leader in hf.election("boss").observe():
        assert_type(leader, holdfast.Leader | None)
    async with hf.watch("payments/") as watch:
        async for event in watch:
            assert_type(event, holdfast.Record | holdfast.Restarted)
    for event in blocking.watch(timeout=1):
        assert_type(event, holdfast.Record | holdfast.Restarted)
    try:
        ...
    except holdfast.AlreadyDone as done:
        assert_type(done.result, str)
"""

MISUSES = """
import holdfast

hf = holdfast.connect("memory://")
blocking = holdfast.connect_sync("memory://")

@hf.locked("customer:{customer_id}")
async def collect(customer_id: int) -> str: ...

@hf.locked("k")
def plain() -> str: ...            # 1: not a coroutine function

async def misuses() -> None:
    await collect("one")           # 2: the function's own parameters are kept
    hf.lock("k", timeout=3)        # 3: no such option
    hf.locked("k", waits=3)        # 4: nor there
    hf.locked("k", on_held="ignore")  # 5: nor such a choice
    with hf.lock("k"):             # 6: the asynchronous lock is entered with `async with`
        pass
    async with hf.shared("k") as shared:
        await shared.complete("x", retain=60)  # 7: one of several cannot say that the work is done
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_types_are_what_the_documents_say(tmp_path: Path) -> None:
    """A user's correct code has no errors under pyright; each misuse has one, on its line."""
    (tmp_path / "uses.py").write_text(USES)
    (tmp_path / "misuses.py").write_text(MISUSES)
    found = pyright(".", cwd=tmp_path)["generalDiagnostics"]
    errors = [
        (Path(each["file"]).name, each["range"]["start"]["line"])
        for each in found
        if each["severity"] == "error"
    ]
    assert [each for each in errors if each[0] == "uses.py"] == [], found
    marked = {
        number for number, line in enumerate(MISUSES.splitlines()) if line.rpartition("  # ")[1]
    }
    # A decorator that does not fit is reported on its own line, the one above.
    lines = {line + 1 if "@hf.locked" in MISUSES.splitlines()[line] else line for _, line in errors}
    assert lines == marked, found
