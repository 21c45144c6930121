"""Layer 2: training and evaluation of any `Classifier`. Knows no model family and no data set."""
