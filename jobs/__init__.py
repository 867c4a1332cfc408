"""Runs in flight: asked for once, shown to everybody who asks, cancelled, resumed."""
