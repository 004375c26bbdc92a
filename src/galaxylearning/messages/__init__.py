"""What actors say to each other: typed messages for the chain, terms of a job, records on the wire.

Everything here is frozen, versioned and checked when it is made or decoded. Nothing here knows how a
message travels, what time it is, or whether it is welcome.
"""
