"""The program is replaced on the disk while its node runs: the node is of one version, and the process that takes its snapshots of
another. Either the snapshot is the one that the node would have made, or there is none."""

from __future__ import annotations

import dataclasses
import json

import kept
import pytest

from holdfast_coordinator import compaction
from holdfast_coordinator.machine import Entry, Levels, Limits, Machine, encode_entry
from holdfast_coordinator.raft.compactor import JOB_VERSION, Job

PARAMETERS = compaction.parameters(Limits())
FIELDS_OF_THE_FIRST_VERSION = {
    *("data_dir", "directory_id", "cluster", "base", "index", "term", "output", "parameters"),
}


def job(**changed: object) -> Job:
    given = {"base": 0, "index": 9, "term": 1, "parameters": PARAMETERS, "version": JOB_VERSION}
    return Job(data_dir="d", directory_id="00", cluster="c", output="o", **{**given, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("level", kept.LEVELS)
def test_a_newer_program_takes_the_snapshot_of_an_older_node(level: int) -> None:
    """At the level of the log: an older node can read it, and gives the same bytes itself."""
    replayer = compaction.Replayer(PARAMETERS, None)
    for index, each in enumerate(kept.read_json(level, "entries.json")["entries"], 1):
        replayer.apply(index, 1, bytes.fromhex(each))
    assert replayer.snapshot() == (kept.folder(level) / "snapshot.bin").read_bytes()


def test_an_entry_that_the_program_does_not_know_is_never_passed_over() -> None:
    """Not by this version; and with the field `version` the first one, which did, cannot even read the job."""
    replayer = compaction.Replayer(PARAMETERS, None)
    newer = encode_entry(Entry(1, 0, level=Levels().highest + 1))
    with pytest.raises(ValueError, match="log entry 7 cannot be read by this version"):
        replayer.apply(7, 1, newer)
    written = json.loads(job().to_json())
    assert set(written) - FIELDS_OF_THE_FIRST_VERSION == {"version"}


def test_the_job_of_a_newer_node_is_refused_and_that_of_an_older_one_is_done() -> None:
    with pytest.raises(ValueError, match="newer version than the program on the disk"):
        Job.from_json(job(version=JOB_VERSION + 1).to_json())
    older = {name: value for name, value in dataclasses.asdict(job()).items() if name != "version"}
    done = Job.from_json(json.dumps(older))
    assert (done.version, done.index, done.output) == (1, 9, "o")


def test_parameters_of_an_older_node_are_enough() -> None:
    """A limit that it does not know has its default, which is what it does."""
    limits = {name: value for name, value in PARAMETERS["limits"].items() if name != "done_max"}
    replayer = compaction.Replayer({"limits": limits}, None)
    assert replayer.machine.state.limits == Limits()
    assert replayer.snapshot() == Machine(Limits()).snapshot()
