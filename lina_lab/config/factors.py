"""Factors that a reader assumes to be equal in all cells, and the audit of them that `lina plan` and reports print."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lina_lab.config.trial import TrialConfig


class FactorKind(StrEnum):
    """What a change of the factor with size means."""

    TRAINING = "in training"
    """A difference between sizes at the end of training cannot be attributed to size."""
    CONDITION = "as a condition of fairness"
    """Each size may need its own value, tuned or not: it is shown, and confounds no law."""
    SHAPE = "in the model's shape"
    """It may grow with size: a law of size is a law of such a family of models."""


class LawKind(StrEnum):
    """Scaling laws by what confounds them."""

    SIZE = "size"
    """Loss at the end of training by parameters."""
    SIZE_AND_DATA = "size_and_data"
    """Loss by parameters and images seen, along training."""
    COMPUTE = "compute"
    """The best size for a compute budget, and the frontier of loss by compute."""


LAWS: Final = {
    LawKind.SIZE: "a law in size at the end of training",
    LawKind.SIZE_AND_DATA: "a law in size and data",
    LawKind.COMPUTE: "the best size for a compute budget",
}
"""Kind of law -> its name in sentences."""
PAIRING: Final = (
    "Data order, masks, noise levels and noise depend on the seed and the step, never on the variant: cells of one "
    "size and seed are paired."
)
"""What pairing guarantees in every study."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One number of a trial."""

    kind: FactorKind
    value: Callable[[TrialConfig], float]
    confounds: tuple[LawKind, ...] = ()
    """The laws that need it to be equal at all sizes."""


ALL_LAWS, SIZE_ALONE = tuple(LawKind), (LawKind.SIZE,)
TRAINING, CONDITION, SHAPE = FactorKind
IMAGES: Final = "images seen"
BATCH: Final = "batch in images"
STEPS: Final = "optimizer steps"
WARMUP_SHARE: Final = "share of the budget in warm-up"
FACTORS: Final[Mapping[str, Factor]] = {
    BATCH: Factor(kind=TRAINING, value=lambda trial: trial.data.batch_size, confounds=ALL_LAWS),
    "batch in tokens": Factor(
        kind=TRAINING, value=lambda trial: trial.data.batch_size * trial.model.num_tokens, confounds=ALL_LAWS
    ),
    IMAGES: Factor(kind=TRAINING, value=lambda trial: trial.images_seen, confounds=SIZE_ALONE),
    STEPS: Factor(kind=TRAINING, value=lambda trial: trial.max_steps, confounds=SIZE_ALONE),
    WARMUP_SHARE: Factor(
        kind=TRAINING,
        value=lambda trial: trial.optimizer.warmup_images / trial.trainer.max_images,
        confounds=SIZE_ALONE,
    ),
    "images that the average reaches back": Factor(
        kind=TRAINING,
        value=lambda trial: trial.ema.every_n_steps * trial.data.batch_size / (1 - trial.ema.decay),
        confounds=ALL_LAWS,
    ),
    "learning rate": Factor(kind=CONDITION, value=lambda trial: trial.optimizer.lr),
    "warm-up images": Factor(kind=CONDITION, value=lambda trial: trial.optimizer.warmup_images),
    "weight decay": Factor(kind=CONDITION, value=lambda trial: trial.optimizer.weight_decay),
    "depth": Factor(kind=SHAPE, value=lambda trial: len(trial.model.condition_blocks) + trial.model.depth),
    "depth of the flow head": Factor(
        kind=SHAPE, value=lambda trial: trial.model.flow_depth if trial.model.kind.condition_tokens else 0
    ),
    "heads": Factor(kind=SHAPE, value=lambda trial: trial.model.num_heads),
    "channels of a head": Factor(kind=SHAPE, value=lambda trial: trial.model.dim // trial.model.num_heads),
    "image tokens": Factor(kind=SHAPE, value=lambda trial: trial.model.num_tokens),
}
"""Name -> factor."""


@dataclass(frozen=True, kw_only=True)
class AuditedCell:
    """What the audit reads of cells that differ in their seed alone."""

    variant: str
    size: str
    seeds: Collection[int]
    factors: Mapping[str, float]
    """Name of a factor -> its value; factors that are not known may be absent."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What is equal in all cells of a study, and what is not."""

    sizes: int
    """How many sizes there are."""
    equal: Mapping[str, str]
    """Factor -> its one value."""
    changing: Mapping[str, str]
    """Factor that changes with size for at least one variant -> its values by size."""
    differing: Mapping[str, str]
    """Factor that does not, but differs between cells of one size -> its values by size."""
    seeds: str
    """Numbers of seeds by size; empty where they are equal."""

    def changing_of(self, kind: FactorKind) -> dict[str, str]:
        """The factors of this kind that change with size, with their values by size."""
        return {name: values for name, values in self.changing.items() if FACTORS[name].kind is kind}

    @property
    def confounded(self) -> dict[LawKind, str]:
        """Kind of law -> the factors that are confounded with size in it; no entry for a law that nothing confounds."""
        found = {law: [name for name in self.changing if law in FACTORS[name].confounds] for law in LawKind}
        return {law: _and(names) for law, names in found.items() if names}

    def sentences(self) -> list[str]:
        """The audit in sentences, each one line."""
        listed: dict[str, Mapping[str, str]] = {
            "Equal for all cells": self.equal,
            **{f"Change with size {kind}": self.changing_of(kind) for kind in FactorKind},
            "Differ between cells of one size": self.differing,
        }
        lines = [
            f"{title}: {', '.join(f'{name} ({values})' for name, values in found.items())}."
            for title, found in listed.items()
            if found
        ]
        lines += [f"Numbers of seeds differ: {self.seeds}."] if self.seeds else []
        return [*lines, *self._laws()]

    def _laws(self) -> list[str]:
        """Which laws are confounded, and which are not."""
        if self.sizes < 2:
            return []
        confounded = self.confounded
        lines = [f"{LAWS[law].capitalize()} is confounded with {factors}." for law, factors in confounded.items()]
        free = [LAWS[law] for law in LawKind if law not in confounded]
        return [*lines, *([f"No factor of training confounds {_and(free, 'or')}."] if free else [])]


def audit(cells: Iterable[AuditedCell], sizes: Sequence[str]) -> Audit:
    """Compare the factors of cells.

    Args:
        cells: all that are compared.
        sizes: the sizes in their order; others come last.
    """
    values: dict[str, dict[str, dict[str, set[float]]]] = {}
    seeds: dict[str, dict[str, set[int]]] = {}
    for cell in sorted(cells, key=lambda cell: sizes.index(cell.size) if cell.size in sizes else len(sizes)):
        seeds.setdefault(cell.size, {}).setdefault(cell.variant, set()).update(cell.seeds)
        for name, value in cell.factors.items():
            by_size = values.setdefault(name, {}).setdefault(cell.size, {})
            # Shares that differ by rounding alone are equal.
            by_size.setdefault(cell.variant, set()).add(float(f"{value:.6g}"))
    equal, changing, differing = {}, {}, {}
    for name in (name for name in FACTORS if name in values):
        at = {size: _between(set().union(*found.values())) for size, found in values[name].items()}
        shown = ", ".join(f"{text} at {size}" for size, text in at.items())
        variants = {variant for found in values[name].values() for variant in found}
        if len(set().union(*(one for found in values[name].values() for one in found.values()))) == 1:
            equal[name] = next(iter(at.values()))
        elif any(_moves([found[v] for found in values[name].values() if v in found]) for v in variants):
            changing[name] = shown
        else:
            differing[name] = shown
    counts = {size: {len(own) for own in found.values()} for size, found in seeds.items()}
    several = len(set().union(*counts.values())) > 1
    return Audit(
        sizes=len(counts),
        equal=equal,
        changing=changing,
        differing=differing,
        seeds=", ".join(f"{_between(found)} at {size}" for size, found in counts.items()) if several else "",
    )


def _moves(by_size: list[set[float]]) -> bool:
    return any(found != by_size[0] for found in by_size)


def _between(values: Iterable[float]) -> str:
    """One value, or the smallest and the largest of several."""
    low, high = min(values), max(values)
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _and(names: list[str], word: str = "and") -> str:
    return f" {word} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
