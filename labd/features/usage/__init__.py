"""What nodes take of the host."""
