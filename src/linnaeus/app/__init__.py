"""Layer 3: the only place that reads a `Config` and builds things; one file a workflow."""
