"""The embedded Cellpose network: segmenter, network, training, dynamics."""
