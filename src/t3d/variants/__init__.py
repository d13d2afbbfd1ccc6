"""What else can learn than TD3 itself."""
