"""A trained policy on its own: all that a robot needs."""
