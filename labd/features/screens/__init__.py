"""Screens of nodes: pictures, keys, viewers."""
