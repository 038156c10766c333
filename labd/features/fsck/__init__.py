"""Compares the host with the inventory, and repairs."""
