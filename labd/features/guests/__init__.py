"""Commands and files in guests, by their agents."""
