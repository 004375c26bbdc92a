"""What masked mode costs, whether it is exact, and what leaks; beside Flower's SecAgg+ where it is a peer."""
