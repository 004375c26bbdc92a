"""Jobs on a chain that takes blocks back again and again, against the same job on one that does not."""
