"""Is it true? Splits, targets, scores, intervals, plain models, and masks against their truth."""
