"""What segments need of their host."""
