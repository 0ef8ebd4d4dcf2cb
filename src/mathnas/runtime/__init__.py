"""Dynamic networks: resident blocks, what they take now, and which of them to run."""
