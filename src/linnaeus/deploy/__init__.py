"""Layer 2: the deliverable."""
