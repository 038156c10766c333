"""Checkpoints of labs, forks and restores."""
