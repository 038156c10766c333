"""Connections into labs."""
