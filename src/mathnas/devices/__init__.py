"""Measuring networks on devices: one file an engine."""
