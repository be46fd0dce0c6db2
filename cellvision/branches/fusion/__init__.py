"""Several branches of the same items."""
