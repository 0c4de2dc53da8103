"""Holdfast's coordinator: a replicated lock table, one node of three or more."""
