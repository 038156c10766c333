"""Benchmarks of labd against baselines; `bench/run.py` runs them."""
