"""Published ports of nodes."""
