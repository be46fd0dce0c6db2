"""The one image reader: bytes of any kind -> (H, W, C) pixels, or a reason why not."""
