"""Where results are written: arrays of the caller, new ones, and memory that is used again."""
