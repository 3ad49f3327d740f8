"""Dropout: its values, its mask, and both behind an activation in one pass."""
