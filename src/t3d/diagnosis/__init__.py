"""What TD3's own numbers say of its training, and what is wrong with it in words."""
