"""The one comparison that a study is made for, and the losses that it adds up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, PositiveFloat

if TYPE_CHECKING:
    from lina_lab.config.study import StudyConfig

# A size is a number in YAML and on the command line.
Name = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
OTHER_LOSS = ("model.task",)
"""Fields whose values have losses of different kinds, which only their ratios can be compared by."""
Scale = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class AcrossConfig(Checked):
    """The two values of another axis that an interaction compares a difference at."""

    axis: str
    """The axis."""
    treatment: Name
    """The value whose difference is judged: its label, or as `lina plan` shows it."""
    baseline: Name
    """The value whose difference is taken from it."""

    def _problems(self) -> Iterator[str]:
        if self.treatment == self.baseline:
            yield f"treatment and baseline are both {self.treatment}"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PrimaryConfig(Checked):
    """The one comparison that the study is made for. All others are exploratory."""

    axis: str
    """The axis whose values are compared."""
    treatment: Name
    """Its value that is judged: its label, or as `lina plan` shows it."""
    baseline: Name
    """The value that it is judged against."""
    at: dict[str, Name] = field(default_factory=dict)
    """Axis -> value, for each other axis that makes variants."""
    quantity: Literal["difference", "growth", "interaction"] = "difference"
    """difference: treatment minus baseline at one size; growth: that difference at the largest size minus the same at
    the smallest; interaction: that difference at across.treatment minus the same at across.baseline."""
    across: AcrossConfig | None = None
    """For quantity=interaction: another axis and two of its values, such as {axis: task, treatment: classification,
    baseline: generation}."""
    scale: Scale = "linear"
    """linear: the losses are compared as they are; log: their natural logarithms are, so that a difference is the
    logarithm of a ratio. Losses of different tasks need log."""
    size: Name | None = None
    """The size of a difference or an interaction, as `lina plan` shows it; null: the largest."""
    metric: str | None = None
    """One of the objectives; null: the main one."""
    margin: PositiveFloat | None = None
    """The variants are equivalent if the interval lies within plus and minus this; null: equivalence is not judged."""

    def _problems(self) -> Iterator[str]:
        if self.treatment == self.baseline:
            yield f"treatment and baseline are both {self.treatment}"
        if self.quantity == "growth" and self.size is not None:
            yield "quantity=growth compares the largest size with the smallest; leave size out"
        if (self.quantity == "interaction") != (self.across is not None):
            yield "quantity=interaction and across go together: across names the axis and its two values"

    @property
    def compared_axes(self) -> tuple[str, ...]:
        """The axes of which it compares two values."""
        return (self.axis,) if self.across is None else (self.axis, self.across.axis)


@dataclass(frozen=True, kw_only=True)
class ContrastTerm:
    """One of the losses that the primary comparison adds up."""

    values: Mapping[str, Any]
    """Field -> value, for every field that the axes vary."""
    weight: float
    scale: Scale = "linear"
    """Whether the loss is added up as it is, or its logarithm."""


def primary_problems(study: "StudyConfig") -> Iterator[str]:
    """What is wrong with a study's primary comparison, as sentences."""
    primary = study.primary
    if primary is None:
        return
    if primary.metric not in (None, *(objective.metric for objective in study.objectives)):
        yield f"primary.metric={primary.metric} is not one of the study's objectives"
    if primary.axis not in study.axes or primary.axis == study.size_axis:
        yield f"primary.axis={primary.axis} is not an axis that makes variants"
        return
    if primary.across is not None and primary.across.axis not in set(study.axes) - {study.size_axis, primary.axis}:
        yield f"primary.across.axis={primary.across.axis} is not another axis that makes variants"
        return
    if primary.quantity == "growth" and len(study.points(study.size_axis)) < 2:
        yield "primary.quantity=growth needs two sizes: with one, there is no growth"
    yield from _problems_of_kinds(study, primary)
    yield from _problems_of_names(study, primary)


def _problems_of_kinds(study: "StudyConfig", primary: PrimaryConfig) -> Iterator[str]:
    for name in OTHER_LOSS:
        if name in study.axes[primary.axis]:
            yield (
                f"primary.axis={primary.axis} varies {name}, whose losses are of different kinds: compare another "
                f"axis, with quantity=interaction across {primary.axis}"
            )
        elif primary.across is not None and name in study.axes[primary.across.axis] and primary.scale == "linear":
            yield f"primary.across varies {name}, whose losses are of different kinds: it needs primary.scale=log"


def _problems_of_names(study: "StudyConfig", primary: PrimaryConfig) -> Iterator[str]:
    others = [axis for axis in study.axes if axis not in (study.size_axis, *primary.compared_axes)]
    wanted: dict[str, tuple[str, ...]] = {primary.axis: (primary.treatment, primary.baseline)}
    if primary.across is not None:
        wanted[primary.across.axis] = (primary.across.treatment, primary.across.baseline)
    for axis in others:
        if axis not in primary.at and len(study.points(axis)) > 1:
            yield f"primary.at needs a value of {axis}, one of {', '.join(study.point_names(axis))}"
    for axis, value in primary.at.items():
        if axis not in others:
            yield f"primary.at: {axis} is not another axis that makes variants"
        else:
            wanted[axis] = (value,)
    if primary.size is not None:
        wanted[study.size_axis] = (primary.size,)
    for axis, names in wanted.items():
        for name in names:
            if study.named(axis, name) is None:
                yield f"primary: {axis} has no value {name}; it has {', '.join(study.point_names(axis))}"


def primary_text(study: "StudyConfig") -> str:
    """A study's primary comparison for people, as "val/loss_ema, gate=kv minus gate=none, size=16".

    Raises:
        ValueError: the study has none.
    """
    primary = _declared(study)
    compared = f"{primary.axis}={primary.treatment} minus {primary.axis}={primary.baseline}"
    metric = f"{'log ' if primary.scale == 'log' else ''}{primary.metric or study.objective}"
    at = "".join(f", {axis}={value}" for axis, value in primary.at.items())
    sizes, across = study.point_names(study.size_axis), primary.across
    if primary.quantity == "growth":
        return f"{metric}, {compared}{at}, growth from {study.size_axis}={sizes[0]} to {sizes[-1]}"
    where = f"{metric}, {compared}{at}, {study.size_axis}={primary.size or sizes[-1]}"
    if across is None:
        return where
    return f"{where}, at {across.axis}={across.treatment} minus at {across.axis}={across.baseline}"


def primary_terms(study: "StudyConfig") -> tuple[ContrastTerm, ...]:
    """The primary comparison as a weighted sum of losses of one seed.

    The first two terms are the treatment and the baseline, at the largest size of a growth and at the treatment of
    what an interaction goes across.

    Raises:
        ValueError: the study has none.
    """
    primary = _declared(study)
    common: dict[str, Any] = {}
    for axis in study.axes:
        if axis not in (study.size_axis, *primary.compared_axes):
            common |= study.named(axis, primary.at.get(axis, study.point_names(axis)[0])) or {}
    sides = {primary.treatment: 1.0, primary.baseline: -1.0}
    return tuple(
        ContrastTerm(
            values={**common, **where, **(study.named(primary.axis, side) or {})},
            weight=weight * sign,
            scale=primary.scale,
        )
        for where, weight in _places(study, primary)
        for side, sign in sides.items()
    )


def other_sizes(study: "StudyConfig", terms: Sequence[ContrastTerm]) -> list[list[ContrastTerm]]:
    """The terms of the same difference at every other size; none for a growth, which has all sizes' noise."""
    fields = list(study.axes[study.size_axis])
    points = [dict(zip(fields, point, strict=True)) for point in study.points(study.size_axis)]
    own = [{name: term.values[name] for name in fields} for term in terms]
    if any(one != other for one, other in pairwise(own)):
        return []
    return [[replace(term, values={**term.values, **point}) for term in terms] for point in points if point != own[0]]


def _declared(study: "StudyConfig") -> PrimaryConfig:
    if study.primary is None:
        raise ValueError(f"the study {study.name} has no primary comparison")
    return study.primary


def _places(study: "StudyConfig", primary: PrimaryConfig) -> list[tuple[dict[str, Any], float]]:
    """The values of the other axes at which the difference is taken, and what it is multiplied by there."""
    names = study.point_names(study.size_axis)
    size = study.named(study.size_axis, primary.size or names[-1]) or {}
    if primary.quantity == "growth":
        return [(size, 1.0), (study.named(study.size_axis, names[0]) or {}, -1.0)]
    across = primary.across
    if across is None:
        return [(size, 1.0)]
    sides = {across.treatment: 1.0, across.baseline: -1.0}
    return [({**size, **(study.named(across.axis, name) or {})}, sign) for name, sign in sides.items()]
