"""Training and judging, one step at a time."""
