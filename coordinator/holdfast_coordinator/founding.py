"""Whether a start of all nodes on this machine begins a new cluster: asked by whoever starts them, before any runs.

Rule: only directories are looked at, nothing is changed. What the answer means is decided by the nodes themselves (raft/peers.py):
a directory that belongs to a cluster already takes no notice of `--bootstrap`, and one that was lost is refused by the others.
"""

from __future__ import annotations

from holdfast_coordinator.config import ClusterConfig
from holdfast_coordinator.raft.peers import PEERS_NAME, is_founded


def is_new_cluster(config: ClusterConfig) -> bool:
    """Whether no node's data directory belongs to a cluster yet."""
    return not any(is_founded(node.data_dir) for node in config.nodes)


def why_not_founded(config: ClusterConfig, node: str) -> str | None:
    """Why `--bootstrap` may not begin a cluster here: its tokens would be those of incarnations before. None: it may, or it has no
    effect, because the directory is in use."""
    if config.incarnation == 0 or (config.node(node).data_dir / PEERS_NAME).exists():
        return None
    return (
        f"{config.file} says incarnation {config.incarnation}, which begins with a restore: holdfast restore FILE, or, if there is "
        "no backup, holdfast restore --without-backup"
    )
