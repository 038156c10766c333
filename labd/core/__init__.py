"""The kernel of the daemon: one writer of states, operations, admission. Knows no feature."""
