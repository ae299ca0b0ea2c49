"""New train sets out of a round's own predictions."""
