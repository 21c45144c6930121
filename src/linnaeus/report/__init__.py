"""Layer 2: results for people."""
