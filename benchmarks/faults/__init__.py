"""Whole jobs under simulated faults: thousands of seeded runs of the real nodes, each checked by an oracle."""
