"""Fit, keep, evaluate and apply a policy: which strategy for which difficulty and budget."""
