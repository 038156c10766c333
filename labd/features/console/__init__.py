"""Serial consoles and logs of nodes."""
