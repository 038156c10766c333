"""Memory and disk of the host: pressure, pauses, control groups."""
