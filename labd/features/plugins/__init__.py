"""Plugins and their supervisor."""
