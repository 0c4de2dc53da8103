"""The same workloads, histories and checkers, against real processes."""
