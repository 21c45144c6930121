"""Layer 0: contracts and small tools. Imports torch, numpy and the standard library only."""
