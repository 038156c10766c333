"""The daemon and its host."""
