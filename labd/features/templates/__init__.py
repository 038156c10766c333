"""Templates: the shipped ones, validation, parameters."""
