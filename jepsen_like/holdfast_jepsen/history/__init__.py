"""What clients asked, what they were told, and when."""

from holdfast_jepsen.history.history import Belief, History, Kind, Lease, Operation, Result, Seen

__all__ = ["Belief", "History", "Kind", "Lease", "Operation", "Result", "Seen"]
