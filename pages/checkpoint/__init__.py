"""The checkpoints page in its parts: bring one, the shelf, look inside one, compare two."""
