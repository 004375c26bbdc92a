"""Galaxy Learning: buy training instead of data."""
