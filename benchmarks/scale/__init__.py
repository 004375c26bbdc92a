"""How costs grow with owners, parameters and coalitions, and what the simulator costs to start."""
