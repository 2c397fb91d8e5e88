"""What the analysis cannot go on with, told in one sentence."""


class StoreError(RuntimeError):
    """The run store does not hold what is asked for; the message says what was found and what to do."""
