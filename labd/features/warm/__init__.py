"""Warm pools: forks that stand ready."""
