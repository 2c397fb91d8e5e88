"""Errors of the analysis that the user can act on; the message is one sentence."""


class StoreError(RuntimeError):
    """The run store does not hold what is needed. The message says what was found and what to do."""
