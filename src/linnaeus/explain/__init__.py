"""Looking at a network: what it learns, where it breaks, what it costs."""

from linnaeus.explain.gradients import gradcheck_layer as gradcheck_layer
