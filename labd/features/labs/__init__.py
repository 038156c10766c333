"""Labs: up, down, edits, and the machines that they run."""
