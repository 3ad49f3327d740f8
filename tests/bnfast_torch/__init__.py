"""PyTorch's door: bnfast.torch against torch itself."""
