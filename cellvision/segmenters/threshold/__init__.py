"""The classical segmenter: nothing is learned."""
