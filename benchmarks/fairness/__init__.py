"""Who is paid what, when some do not play fair."""
