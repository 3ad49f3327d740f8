"""Malformed arguments, and what the messages say of them."""
