"""Drivers: they run flows on engines and verifiers, meter them and hold their budgets."""
