"""What the whole protocol costs beside the training it is there for: time, and bytes of a data owner."""
