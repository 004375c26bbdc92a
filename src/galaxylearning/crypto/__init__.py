"""Digests, Merkle trees, signatures and sealed envelopes: mechanism without policy, and without I/O."""
