"""Classes: a lab for each student of a roster."""
