"""Training supernets."""
