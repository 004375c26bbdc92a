"""Whole jobs under simulated faults: thousands of seeded runs of the real nodes, checked by an oracle."""
