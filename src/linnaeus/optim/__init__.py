"""Layer 1: parameter groups, optimizers, schedules and averaged weights."""
