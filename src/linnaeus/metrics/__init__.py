"""Layer 1: counts, scores and their intervals."""
