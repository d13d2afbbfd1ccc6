"""Runs: the one training loop and everything that writes to a disk."""
