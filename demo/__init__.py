"""The demo world: text whose truth is known, and the models trained on it."""
