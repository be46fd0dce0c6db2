"""Tables of features, a row an item."""
