"""How jobs are started, watched and ended, on this machine or a Ray cluster."""
