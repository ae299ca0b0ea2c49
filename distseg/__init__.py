"""distseg: from a segmentation competition's files to an ensembled submission."""

__version__ = "0.1.0"
