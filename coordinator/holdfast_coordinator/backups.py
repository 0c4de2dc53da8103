"""A backup file looked at, and a cluster begun from one: what `holdfast backup verify` and `holdfast restore` do.

    backup   a snapshot file (raft/snapshots.py): cluster, index, term, format, length and SHA-256 in its head, then the machine's
             state. The state was read back, and held to the machine's invariants, before anybody calls it a backup.
    restore  the same state in the next incarnation (machine/incarnations.py), written into empty directories (raft/seeding.py)

Rule: what a restore writes follows from the file, cluster.yml and the options alone. So it may be done on each machine for itself,
and nodes that were not given the same do not found a cluster together. Offline: no node runs while it is done.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holdfast import wire
from holdfast_coordinator.config import ClusterConfig
from holdfast_coordinator.machine import (
    InvariantViolation,
    Limits,
    Machine,
    SnapshotUnreadable,
    begin_incarnation,
    check_invariants,
    incarnation_of,
)
from holdfast_coordinator.raft import seeding, snapshots
from holdfast_coordinator.raft.errors import EngineFailure

ANSWER_SECONDS: Final = 1.0
"""What a node gets to accept a connection, before it is taken for stopped."""

_UNBOUNDED: Final[dict[str, Any]] = {
    each.name: wire.INTEGER_MAX for each in dataclasses.fields(Limits) if type(each.default) is int
}
NO_LIMITS: Final = Limits(**_UNBOUNDED)
"""For looking at a state without knowing the limits under which it came about."""


class BackupError(Exception):
    """The file is no backup that can be used, or the restore is refused; the text is a sentence. Nothing was started on it."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was written. Equal on all machines that gave the same restore."""

    cluster: str
    index: int
    term: int
    sha256: str
    first_token: int
    """The first grant of the restored cluster has this token or a later one."""
    sessions: int
    holds: int
    directories: dict[str, str]


def inspect(path: Path) -> dict[str, Any]:
    """What a backup says and holds, after a check of every byte and of the state itself. Raises BackupError."""
    header, payload = _read(path)
    machine = _machine(path, payload, NO_LIMITS)
    return {
        "cluster": header.cluster,
        "index": header.info.index,
        "term": header.info.term,
        "format": snapshots.FORMAT_VERSION,
        "bytes": snapshots.HEADER_BYTES + header.info.length,
        "sha256": header.info.digest.hex(),
        "incarnation": incarnation_of(machine),
        **dataclasses.asdict(machine.counts()),
    }


def restore(
    path: Path,
    config: ClusterConfig,
    nodes: tuple[str, ...],
    *,
    keep_holds: bool,
    data_dir: Path | None = None,
) -> Restored:
    """Write the data directories of `nodes` (none: of every node in `config`); `data_dir` replaces the one of the configuration.
    Raises BackupError, and ConfigError for a node that is not there."""
    header, payload = _read(path)
    _machine(path, payload, NO_LIMITS)
    machine = _machine(path, payload, config.machine_limits)
    _check_incarnation(path, config, machine)
    begin_incarnation(machine, config.incarnation, keep_holds=keep_holds)
    _check(path, machine)
    return _write(config, nodes, data_dir, machine, header.info.index, header.info.term)


def begin_without_backup(
    config: ClusterConfig, nodes: tuple[str, ...], *, data_dir: Path | None = None
) -> Restored:
    """The same from nothing: nobody holds anything, and tokens go on above all of the incarnations before."""
    if config.incarnation == 0:
        raise BackupError(
            f"{config.file}: $.incarnation is 0: write one more than ever before, on every machine. (A cluster that never ran "
            "needs no restore: holdfast serve --bootstrap)"
        )
    machine = Machine(config.machine_limits)
    begin_incarnation(machine, config.incarnation, keep_holds=False)
    return _write(config, nodes, data_dir, machine, 1, 1)


def _write(
    config: ClusterConfig,
    nodes: tuple[str, ...],
    data_dir: Path | None,
    machine: Machine,
    index: int,
    term: int,
) -> Restored:
    wanted = [config.node(name) for name in nodes] or list(config.nodes)
    directories = {
        node.name: node.data_dir if data_dir is None else data_dir / node.name for node in wanted
    }
    seed = seeding.Seed(config.cluster_id, index, term, machine.snapshot())
    try:
        info = seeding.seed_all(seed, directories, [node.name for node in config.nodes])
    except EngineFailure as failure:
        raise BackupError(str(failure)) from failure
    counts = machine.counts()
    return Restored(
        seed.cluster,
        info.index,
        info.term,
        info.digest.hex(),
        machine.last_token + 1,
        counts.sessions,
        counts.holds,
        {name: str(where) for name, where in directories.items()},
    )


def answering(config: ClusterConfig) -> list[str]:
    """The addresses of `config` at which somebody accepts connections: a node that should have been stopped."""
    addresses = [address for node in config.nodes for address in (node.raft, node.http)]
    return [str(each) for each in addresses if _accepts(each.host, each.port)]


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def _read(path: Path) -> tuple[snapshots.Header, bytes]:
    try:
        return snapshots.inspect(path)
    except (ValueError, OSError) as error:
        raise BackupError(f"{path}: {error}") from error


def _machine(path: Path, payload: bytes, limits: Limits) -> Machine:
    try:
        machine = Machine.restore(payload, limits)
    except SnapshotUnreadable as error:
        raise BackupError(f"{path}: {error}") from error
    _check(path, machine)
    return machine


def _check(path: Path, machine: Machine) -> None:
    try:
        check_invariants(machine)
    except InvariantViolation as violation:
        raise BackupError(
            f"{path}: the state in it is not as it must be, or does not fit the limits of cluster.yml: {violation}"
        ) from violation


def _check_incarnation(path: Path, config: ClusterConfig, machine: Machine) -> None:
    before = incarnation_of(machine)
    if config.incarnation > before:
        return
    raise BackupError(
        f"{config.file}: $.incarnation is {config.incarnation}, and {path} is of incarnation {before}; write "
        f"`incarnation: {before + 1}`, on every machine (and one more than ever before, if this cluster was restored already "
        "since that backup): by it tokens go past all that were granted, and nodes of the old cluster are kept out"
    )
