"""Judges of a history and of a run. Each answers ok, illegal or unknown; none of them knows the simulator."""
