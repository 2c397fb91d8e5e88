"""How fits ended, as codes that programs decide by. The sentences beside them (`reason`) are for people only."""

from enum import StrEnum


class FitStatus(StrEnum):
    """How a fit ended, as tables show it."""

    OK = "ok"
    NOT_IDENTIFIABLE = "not identifiable"
    """The points cannot tell the parameters apart."""
    WRONG_CURVATURE = "wrong curvature"
    AT_EDGE = "at an edge"
    """The solution lies at the edge of what is allowed or measured."""
    NOT_CONVERGED = "not converged"


class Refusal(StrEnum):
    """Why there is no fit, with the status that it leads to."""

    status: FitStatus

    def __new__(cls, text: str, status: FitStatus) -> "Refusal":
        """Make a member whose value is the text alone."""
        member = str.__new__(cls, text)
        member._value_, member.status = text, status
        return member

    TOO_FEW_SIZES = "too few sizes", FitStatus.NOT_IDENTIFIABLE
    TOO_FEW_DATA_AMOUNTS = "too few amounts of data", FitStatus.NOT_IDENTIFIABLE
    TOO_FEW_POINTS = "too few points", FitStatus.NOT_IDENTIFIABLE
    NO_WHOLE_SEED = "no whole seed", FitStatus.NOT_IDENTIFIABLE
    NO_MINIMUM = "no minimum", FitStatus.WRONG_CURVATURE
    """A parabola opens downwards."""
    MINIMUM_AT_EDGE = "minimum at an edge", FitStatus.AT_EDGE
    """The smallest or the largest size is best."""
    EXPONENT_AT_BOUND = "exponent at a bound", FitStatus.AT_EDGE
    NO_IRREDUCIBLE_LOSS = "no irreducible loss", FitStatus.AT_EDGE
    """E ends at zero: the losses do not flatten."""
    NO_POWER = "no power", FitStatus.AT_EDGE
    """E ends at the smallest loss: the losses show no power law above it."""
    NOT_CONVERGED = "not converged", FitStatus.NOT_CONVERGED
