"""Environments: made from a name, stepped here or in other processes; one file imports gymnasium."""
