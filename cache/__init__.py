"""Results that were expensive, kept under keys that say exactly what they are. Imports nothing of the project but itself."""
