"""Alternatives for the parts of any trained PyTorch model, without training."""
