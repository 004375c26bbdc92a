"""Fuzzing of everything that reads bytes from strangers or from files: ``python -m benchmarks.fuzz``."""
