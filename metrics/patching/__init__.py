"""Which parts of a model carry a difference between two prompts: outputs at the last token (END) taken from one run into another."""
