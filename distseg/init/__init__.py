"""`distseg init`: from a folder to a config that fits it, this machine and a budget of time."""
