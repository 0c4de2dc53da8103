"""Where the other nodes are, read from cluster.yml again while the node runs: for a node that comes back at another address.

    who votes      the names in cluster.yml, for the life of the cluster; a name is proved by the cluster secret (and its
                   certificate), and stands for one data directory (raft/peers.py)
    where it is    an address: only where others look for that name

So an address decides nothing about safety, and a wrong one leads to a node that is not found. What is refused here is what
an operator does not mean: an older file, two changes at once, an address of a node that is there.

Rule: nothing but the addresses of one other node may have changed, and `epoch` is one more than before.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from holdfast_coordinator.config import ClusterConfig, ConfigError, load
from holdfast_coordinator.node_types import AdminRefused, Moved

if TYPE_CHECKING:
    from collections.abc import Mapping

MUST_STAY: Final = ("cluster", "incarnation", "machine_limits", "secret", "data_dir")
"""What makes a node another node, or a replica that decides differently. Other settings are taken at the next start."""


class AddressFile:
    """Fulfils `node_types.AddressBook` for the node `name`."""

    def __init__(self, config: ClusterConfig, name: str, environ: Mapping[str, str]) -> None:
        self._config = config
        self._name = name
        self._environ = environ

    @property
    def epoch(self) -> int:
        return self._config.epoch

    def reread(self, connected: frozenset[str]) -> tuple[Moved, ...]:
        try:
            new = load(self._config.file, self._environ)
        except ConfigError as error:
            raise AdminRefused("conflict", str(error)) from error
        moved = changes(self._config, new, self._name, connected)
        # The rest of the file is for the next start: what runs goes on as it is.
        self._config = dataclasses.replace(self._config, nodes=new.nodes, epoch=new.epoch)
        return moved


def changes(
    old: ClusterConfig, new: ClusterConfig, me: str, connected: frozenset[str]
) -> tuple[Moved, ...]:
    """What `new` says differently of the other nodes. Raises `AdminRefused` if it may not be taken over."""
    for name in MUST_STAY:
        if getattr(old, name) != getattr(new, name):
            raise _refused(new, f"{name} has changed, which needs a restart of the node")
    before = {node.name: node for node in old.nodes}
    after = {node.name: node for node in new.nodes}
    if before.keys() != after.keys():
        raise _refused(
            new, "the names of the nodes have changed; who votes is fixed for the life of a cluster"
        )
    moved = [name for name in after if before[name] != after[name]]
    if new.epoch == old.epoch and not moved:
        return ()
    if new.epoch != old.epoch + 1:
        detail = (
            f"epoch is {new.epoch} there, and {old.epoch} here; a change of addresses raises it by one, "
            "and a node that has missed one is restarted"
        )
        raise _refused(new, detail)
    if len(moved) > 1:
        raise _refused(
            new, f"the addresses of {' and '.join(moved)} have changed; change one node at a time"
        )
    if me in moved:
        raise _refused(new, "this node's own addresses have changed, which needs a restart of it")
    for name in moved:
        if name in connected:
            raise _refused(new, f"{name} is connected at its old address; stop it first")
    return tuple(
        Moved(name, new.http_url(after[name]), str(raft), (raft.host, raft.port))
        for name in moved
        for raft in (after[name].raft,)
    )


def _refused(new: ClusterConfig, detail: str) -> AdminRefused:
    return AdminRefused("conflict", f"{new.file}: {detail}")
