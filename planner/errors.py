"""Every error this package raises on purpose.

PlannerError
├── InputError            something the user gave cannot be used (exit code 2)
│   ├── BudgetError       a budget that cannot be read or met
│   ├── BankError         a bank folder that is damaged or of another schema
│   ├── PolicyError       a policy folder that is damaged or of another schema
│   └── CapabilityError   an engine or verifier lacks what a strategy needs
├── EngineError           an engine failed to generate (`retryable` says whether a retry may help)
├── VerifierError         a verifier failed to score
└── OutOfBudget           thrown into a flow when its balance cannot pay for what it asked
"""

from __future__ import annotations

__all__ = [
    "BankError",
    "BudgetError",
    "CapabilityError",
    "EngineError",
    "InputError",
    "OutOfBudget",
    "PlannerError",
    "PolicyError",
    "VerifierError",
]


class PlannerError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code = 1


class InputError(PlannerError, ValueError):
    """Bad input: the message names where, the field, its value, what was expected and what to do.

    Build it by keyword so that no part is forgotten; a plain message is accepted too.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        field: str | None = None,
        value: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.where, self.field, self.value, self.expected, self.hint = where, field, value, expected, hint
        head = f"{where}: " if where else ""
        if field is not None:
            head += f"`{field}` = {value!r}: " if value is not None else f"`{field}`: "
        text = head + message
        if expected:
            text += f" (expected {expected})"
        if hint:
            text += f". {hint}"
        super().__init__(text)


class BudgetError(InputError):
    """A budget that cannot be read, converted or met."""


class BankError(InputError):
    """A bank that is missing, damaged or written by another schema version."""


class PolicyError(InputError):
    """A policy folder that is missing, damaged or written by another schema version."""


class CapabilityError(InputError):
    """A strategy needs something that the engine or verifier at hand does not offer."""


class EngineError(PlannerError):
    """An engine failed; `retryable` tells whether the same request may succeed later."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        self.retryable = retryable
        super().__init__(message)


class VerifierError(PlannerError):
    """A verifier failed to score."""


class OutOfBudget(PlannerError):
    """Thrown into a flow by its driver; a strategy answers with the best it has so far."""
