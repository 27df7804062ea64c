"""By their names."""
