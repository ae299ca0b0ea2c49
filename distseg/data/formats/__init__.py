"""Data layouts, a file each; their names: data/layouts.py."""
