"""Steps and devices: the one training loop."""
