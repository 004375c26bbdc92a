"""Killing every actor at every step, and comparing what comes out with a run in which nobody died."""
