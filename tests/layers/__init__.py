"""The layers: what they compute, their attributes, their state."""
