"""Out-of-fold predictions to weights, thresholds and an honest score."""
