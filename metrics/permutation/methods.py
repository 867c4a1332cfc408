"""What the ways to order B's units are called, in every result and figure."""

NONE, WEIGHTS, ACTIVATIONS, LEARNED, RANDOM = "as they are", "weights", "activations", "learned", "random order"
