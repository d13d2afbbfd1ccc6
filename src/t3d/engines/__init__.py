"""Ways to run one update on an agent's own memory."""
