"""The simulator is deterministic, its fixed seeds are valid on the product as it is, and new seeds are tried each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from holdfast_jepsen.command import main
from holdfast_jepsen.faults import plan
from holdfast_jepsen.history import History
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import run
from holdfast_jepsen.sim.world import SECOND, Actor, Livelock, World

pytestmark = pytest.mark.timeout(300)
SECONDS = 4.0
"""Of faults, in virtual time: a slice. `python -m holdfast_jepsen sim` runs longer ones."""

CORPUS = (3, 7, 12)
"""Seeds that are kept. Whoever finds a seed that was invalid adds it here, with what it was in the track record."""


VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def interpreters() -> tuple[list[str], list[str]]:
    """(those that can import the harness, the versions that are absent or have none of what it needs)."""
    usable, absent = [sys.executable], []
    for version in VERSIONS:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        path = shutil.which(f"python{version}")
        command = [path or "", "-c", "import holdfast_jepsen.sim.run"]
        if path and subprocess.run(command, capture_output=True, check=False).returncode == 0:  # noqa: S603
            usable.append(path)
        else:
            absent.append(version)
    return usable, absent


def trace_hash_elsewhere(seed: int, hash_seed: str, python: str = sys.executable) -> str:
    """Of a run in another process, with another order of every set of strings."""
    program = f"from holdfast_jepsen.sim.run import run; print(run({seed}, fault_seconds={SECONDS}).trace_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(  # noqa: S603
        [python, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_a_seed_is_one_run() -> None:
    """The same seed gives the same trace, event for event, in every process, under every hash seed, and on every interpreter that
    is here; the others are named in the output."""
    usable, absent = interpreters()
    print(  # noqa: T201 - an interpreter that is not here must not be taken for one that agreed
        f"without these interpreters, which are not here: {', '.join(absent) or 'none'}"
    )
    hashes = {trace_hash_elsewhere(11, str(n), python) for n, python in enumerate(usable, 1)}
    assert hashes == {run(11, fault_seconds=SECONDS).trace_hash}


@pytest.mark.slow
@pytest.mark.parametrize("seed", CORPUS)
def test_a_kept_seed_is_valid(seed: int) -> None:
    """What was valid once, or was found and mended, stays valid."""
    outcome = run(seed, fault_seconds=SECONDS)
    assert outcome.verdict == "valid", outcome.reasons


@pytest.mark.slow
def test_new_seeds_are_valid() -> None:
    """A seed that nobody has run before, each time. If it fails: `python -m holdfast_jepsen replay SEED`."""
    seed = int.from_bytes(os.urandom(4), "little")
    outcome = run(seed, fault_seconds=SECONDS)
    assert outcome.verdict in ("valid", "unknown"), f"seed {seed}: {outcome.reasons}"


def test_the_generator_is_ours() -> None:
    """The numbers of a seed are the same on every interpreter, for ever; streams do not disturb each other."""
    stream = Rng(1, "a")
    assert [stream.bits(), stream.bits()] == [9868800280270855591, 9679365355088788091]
    assert Rng(1, "b").bits() != Rng(1, "a").bits() != Rng(2, "a").bits()


def test_a_plan_is_data() -> None:
    """The same seed draws the same faults, in order of time, within the time that they are given."""
    faults = plan.draw(Rng(5, "faults"), begin=10, end=SECOND * 20)
    assert faults == plan.draw(Rng(5, "faults"), begin=10, end=SECOND * 20)
    assert [f.at for f in faults] == sorted(f.at for f in faults)
    assert all(10 <= f.at < SECOND * 20 and f.kind in plan.KINDS for f in faults)


def test_a_paused_actor_catches_up_in_order_and_a_killed_one_never() -> None:
    """What is due during a pause happens afterwards, in order; what is due after a kill does not happen."""
    world = World()
    actor = Actor(world, "a", clock=lambda: world.now, rate=1.0)
    seen: list[tuple[str, int]] = []
    for name in ("one", "two"):
        world.at(10, lambda name=name: seen.append((name, world.now)), actor=actor)
    world.at(100, lambda: seen.append(("three", world.now)), actor=actor)
    world.at(5, lambda: actor.pause(50))
    world.at(200, lambda: seen.append(("never", world.now)), actor=actor)
    world.at(150, actor.kill)
    world.run(1000)
    assert seen == [("one", 55), ("two", 55), ("three", 100)]


@pytest.mark.parametrize("delay", [0, 1])
def test_what_goes_in_a_circle_ends_the_run(delay: int) -> None:
    """A product that never lets time pass is found out, whether it asks again at once or a nanosecond later."""
    world = World()

    def again() -> None:
        world.after(delay, again)

    again()
    with pytest.raises(Livelock):
        world.run(SECOND)


def test_replay_tells_the_story(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    """Plan, trace hash and verdict are printed; trace and history are written where they are asked for."""
    assert main(["replay", "11", "--fault-seconds", "6", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "  rolling-restart  for " in printed
    assert printed.endswith("valid\n")
    assert (tmp_path / "trace.txt").stat().st_size > 10_000
    assert '"type": "operation"' in (tmp_path / "history.jsonl").read_text()


def test_an_unfinished_operation_is_unknown() -> None:
    """What is on its way when the run ends may have taken effect."""
    from holdfast_jepsen.history import Operation

    history = History([Operation("a", "acquire", ("k",), "a", 0)])
    history.finish()
    assert history.operations[0].result == "unknown"
