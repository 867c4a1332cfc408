"""What is looked at: variants, text, loaded models and the statistics captured from them."""
