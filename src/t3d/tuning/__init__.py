"""Many configurations: a grid of them, or a search."""
