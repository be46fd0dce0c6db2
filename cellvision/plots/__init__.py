"""Every picture; matplotlib has its home here."""
