"""What lies on disk, and how it is written: paths, manifests, predictions, errors, the log."""
