"""Ways to run an update on an agent memory: one text, several engines."""
