"""Proof of Holdfast: the real code under simulated faults, its histories, and the checkers that judge them."""
