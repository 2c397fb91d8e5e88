"""Errors of the analysis that the user can act on; the message is one sentence."""


class StoreError(RuntimeError):
    """The run store does not hold what is needed. The message says what was found and what to do."""


class TableError(ValueError):
    """A table cannot be analyzed; the message says where and why, in one sentence."""


class ResultsError(ValueError):
    """A result file is damaged or incomplete; the message says where and what."""
