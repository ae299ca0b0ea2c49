"""Whether this machine, or the cluster, can do it."""
