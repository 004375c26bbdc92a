"""Where a stranger's model is trained on a data owner's rows."""

from galaxylearning.sandbox.thread import ThreadTrainer

__all__ = ["ThreadTrainer"]
