"""Engines, verifiers and what they cost. Nothing heavy is imported here."""
