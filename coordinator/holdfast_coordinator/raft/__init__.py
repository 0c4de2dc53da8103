"""The replicated log: pysyncobj 0.3.17, shielded. The only package that may import it."""

from holdfast_coordinator.raft.compaction import CompactionConfig
from holdfast_coordinator.raft.engine import Engine, EngineConfig, EngineStats
from holdfast_coordinator.raft.errors import EngineFailure

__all__ = ["CompactionConfig", "Engine", "EngineConfig", "EngineFailure", "EngineStats"]
