"""Prompts that a model must answer with one token: arithmetic in many wordings, the same with nothing to compute, and sets to transfer to."""
