"""Links: carriers and impairments."""
