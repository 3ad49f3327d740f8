"""``python -m bnfast`` prints the configuration."""

from bnfast import show_config

show_config()
