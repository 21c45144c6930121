"""Layer 1: from a source of images to batches."""
