"""Many small networks trained at once on images: digits, MNIST, or what a user brings."""
