"""Quality gates on the source itself: a package, so that file names may repeat."""
