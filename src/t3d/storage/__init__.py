"""Files that notice when they were damaged, and how they reach the disk."""
