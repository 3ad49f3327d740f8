"""Other programs than Python use the installed library: a package, so that names may repeat."""
