"""Whole federations in one process: who takes part, how they behave, and what came of it."""
