"""The laboratory: small policy models and a process reward model, trained from scratch (see `models/lab/`)."""
