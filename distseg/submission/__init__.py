"""Submission files: written, read and scored."""
