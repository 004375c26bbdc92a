"""Poisoned federations: what the worst attacker costs, by rule, data, partition and fraction of attackers."""
