"""The parts of the nemesis: what it does, what is heard meanwhile, and what must be true of it."""
