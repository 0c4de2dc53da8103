"""The whole demo with real processes, on a small file: what it promises, what it shows without the fence, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from holdfast_coordinator.demo import run_demo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

HAS_PROC = Path("/proc/self/environ").exists()

RUN = """
import sys
from pathlib import Path
from holdfast_coordinator.demo import run_demo
sys.exit(run_demo(Path(sys.argv[1]), workers=3, without_fence="naive" in sys.argv, json_output="json" in sys.argv, seed=3))
"""


def write_messages(path: Path, count: int) -> Path:
    """Some orders, each third of them twice, one refund of an early one, and one line that is none."""
    lines = ["this is not a message"]
    for number in range(count):
        order = {
            "payment_id": f"p-{number}",
            "customer": str(number % 7),
            "action": "collect",
            "amount": 500,
            "currency": "EUR",
        }
        lines += [json.dumps(order)] * (2 if number % 3 == 0 else 1)
    lines.append(
        json.dumps(
            order | {"payment_id": "p-0", "customer": "0", "action": "refund", "amount": 200}
        )
    )
    path.write_text("\n".join(lines) + "\n")
    return path


async def start(messages: Path, *words: str) -> asyncio.subprocess.Process:
    """Start a demo whose temporary files lie beside the messages."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, str(messages), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(messages.parent)},
    )


def processes_of(folder: Path) -> list[Path]:
    """Every running process that was started for the demo in `folder`, known by its environment (where there is a /proc)."""
    marker = f"TMPDIR={folder}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                marker in (process / "environ").read_bytes()
                and "Z" not in (process / "stat").read_text().split()[2]
            ):
                found.append(process)
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_a_worker(folder: Path) -> None:
    """SIGKILL one that is at work, and not the frozen one."""
    for process in processes_of(folder):
        is_worker = b"demo.worker" in (process / "cmdline").read_bytes()
        if is_worker and (process / "stat").read_text().split()[2] != "T":
            os.kill(int(process.name), signal.SIGKILL)
            return


async def story_of(demo: asyncio.subprocess.Process, folder: Path) -> str:
    """Read all that a demo writes; when it has frozen one worker, kill another."""
    assert demo.stdout is not None
    lines = []
    async for line in demo.stdout:
        lines.append(line.decode())
        if "FROZEN" in lines[-1]:
            kill_a_worker(folder)
    return "".join(lines)


async def test_every_payment_once_with_the_fence_and_one_twice_without(tmp_path: Path) -> None:
    """The leader is killed, a worker frozen, another worker killed: with the fence the late write is stale and every promise
    is kept; without it a customer pays twice."""
    with_fence, without = tmp_path / "with", tmp_path / "without"
    demos = []
    for folder, words in ((with_fence, ()), (without, ("json", "naive"))):
        folder.mkdir()
        demos.append(await start(write_messages(folder / "m.jsonl", 20), *words))
    story, (printed, _) = await asyncio.gather(
        story_of(demos[0], with_fence), demos[1].communicate()
    )
    assert [await demo.wait() for demo in demos] == [0, 1], story + printed.decode()

    for what in (
        r"line 1 skipped: not a JSON object",
        r"n\d: KILLED",
        r"n\d: started again, and ready",
        r"w\d: FROZEN \(SIGSTOP\)",
        r"w\d: late write refused as STALE",
        r"\nmessages +28 ",
        r"\ncaptured once +21 ",
        r"\ncaptured more than once +0 ",
        r"\nanswered already done +[1-9]",
        r"\nlate write +stale",
        r"\nledger balanced +yes",
    ):
        assert re.search(what, story), f"{what!r} is not in:\n{story}"
    assert "BROKEN" not in story
    if HAS_PROC:
        assert re.search(r"w\d: died; .* started again", story), story

    naive = json.loads(printed)
    assert naive["ok"] is False
    assert [twice["times"] for twice in naive["recorded_twice"]] == [2]
    assert (naive["late_write"], naive["not_captured"], naive["malformed_lines"]) == (
        "captured",
        0,
        1,
    )
    for folder in (with_fence, without):
        assert processes_of(folder) == []
        assert names_in(folder) == ["m.jsonl"]


async def test_an_interrupted_demo_leaves_nothing_running_not_even_a_frozen_worker(
    tmp_path: Path,
) -> None:
    """SIGTERM while a worker is stopped: every node and worker is ended, the folder is gone, the exit code says 143."""
    demo = await start(write_messages(tmp_path / "m.jsonl", 60))
    assert demo.stdout is not None
    async for line in demo.stdout:
        if b"FROZEN" in line:
            break
    demo.send_signal(signal.SIGTERM)
    rest = (await demo.stdout.read()).decode()
    assert await demo.wait() == 143, rest
    assert "interrupted; everything was stopped" in rest
    assert processes_of(tmp_path) == []
    assert names_in(tmp_path) == ["m.jsonl"]


def test_bad_arguments_start_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No file, nothing usable in it, nothing to collect, too few workers: one sentence each, exit code 2."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("nothing\n")
    assert run_demo(tmp_path / "none.jsonl") == 2
    assert run_demo(empty) == 2
    refund = {
        "payment_id": "p",
        "customer": "c",
        "action": "refund",
        "amount": 5,
        "currency": "EUR",
    }
    (tmp_path / "refund.jsonl").write_text(json.dumps(refund))
    assert run_demo(tmp_path / "refund.jsonl") == 2
    assert run_demo(None, workers=1) == 2
    said = capfd.readouterr()
    assert "No such file" in said.err
    assert "not one usable message in it" in said.err
    assert "no collect in it" in said.err
    assert "2 to 64 workers" in said.err
    assert "line 1 skipped" in said.out
