"""Recordings of batch norms in training: their numbers, pictures, files and page."""
