"""``python -m galaxylearning.cli``."""

from galaxylearning.cli import main

main()
