"""What an operator asks: read only, but for one event that is emitted."""
