"""The protocol's pure core: what must happen, given what was said and when.

No I/O, no clock, no chance: time, keys and messages arrive as arguments, decisions leave as values.
"""
