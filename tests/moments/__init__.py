"""The statistics of channels, and of gradients, as values that merge."""
