"""Kinds of node."""
