"""Leases: until when labs run."""
