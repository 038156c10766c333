"""Kinds of storage."""
