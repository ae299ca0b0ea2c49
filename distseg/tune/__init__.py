"""Sweeps with Ray Tune, and the search over a finished run."""
