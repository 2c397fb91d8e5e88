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
    """Why there is no fit."""

    TOO_FEW_SIZES = "too few sizes"
    TOO_FEW_DATA_AMOUNTS = "too few amounts of data"
    TOO_FEW_POINTS = "too few points"
    NO_MINIMUM = "no minimum"
    """A parabola opens downwards."""
    MINIMUM_AT_EDGE = "minimum at an edge"
    """The smallest or the largest size is best."""
    EXPONENT_AT_BOUND = "exponent at a bound"
    NO_IRREDUCIBLE_LOSS = "no irreducible loss"
    """E ends at zero: the losses do not flatten."""
    NO_POWER = "no power"
    """E ends at the smallest loss: the losses show no power law above it."""
    NOT_CONVERGED = "not converged"

    @property
    def status(self) -> FitStatus:
        """The status that it leads to."""
        return _STATUS[self]


_STATUS = {
    Refusal.TOO_FEW_SIZES: FitStatus.NOT_IDENTIFIABLE,
    Refusal.TOO_FEW_DATA_AMOUNTS: FitStatus.NOT_IDENTIFIABLE,
    Refusal.TOO_FEW_POINTS: FitStatus.NOT_IDENTIFIABLE,
    Refusal.NO_MINIMUM: FitStatus.WRONG_CURVATURE,
    Refusal.MINIMUM_AT_EDGE: FitStatus.AT_EDGE,
    Refusal.EXPONENT_AT_BOUND: FitStatus.AT_EDGE,
    Refusal.NO_IRREDUCIBLE_LOSS: FitStatus.AT_EDGE,
    Refusal.NO_POWER: FitStatus.AT_EDGE,
    Refusal.NOT_CONVERGED: FitStatus.NOT_CONVERGED,
}
