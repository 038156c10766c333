"""Formats, sources and recipes of images."""
