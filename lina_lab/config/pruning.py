"""Cells that are given up: by one of Optuna's pruners while they train, or by racing over seeds before they train."""

import inspect
import typing
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, PositiveInt, from_dict
from lina_lab.util.registry import resolve

if TYPE_CHECKING:
    from lina_lab.config.study import StudyConfig

RACING = "racing"
PRUNERS = {
    "median": "optuna.pruners:MedianPruner",
    "percentile": "optuna.pruners:PercentilePruner",
    "successive_halving": "optuna.pruners:SuccessiveHalvingPruner",
    "hyperband": "optuna.pruners:HyperbandPruner",
    "patient": "optuna.pruners:PatientPruner",
    "threshold": "optuna.pruners:ThresholdPruner",
}
"""Rule -> Optuna's pruner (Optuna 5.0), imported where a study prunes: it takes a quarter of a second."""
WRAPPED = "wrapped_pruner"
"""The one parameter of a pruner that is itself a pruner (`PatientPruner`)."""
HALVING = {"successive_halving": ("min_resource",), "hyperband": ("min_resource", "max_resource")}
"""Rule that compares at growing amounts of training -> parameters that say from where to where; left out, they are the
first validation and the budget."""
WRAPPABLE = tuple(rule for rule in PRUNERS if rule not in (*HALVING, "patient"))


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class RacingOptions(Checked):
    """`study.pruning.options` of rule=racing."""

    block: PositiveInt = 3
    """Seeds that all variants train before they are judged, and between two judgments."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that the whole study gives up any variant that is as good as the one that it is compared with."""

    def _problems(self) -> Iterator[str]:
        if self.block < 2:
            yield f"block={self.block}: one seed has no interval, so give at least 2"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PruningConfig(Checked):
    """Which cells of the comparison are given up early, and recorded as pruned."""

    rule: Literal["median", "percentile", "successive_halving", "hyperband", "patient", "threshold", "racing"]
    """racing: variants that are resolved as worse than the best one at their size train no more seeds. The others are
    Optuna's pruners: they compare a running cell's main objective at each validation with other cells of its size, and
    make every verdict exploratory."""
    options: dict[str, Any] = field(default_factory=dict)
    """racing: block (3 seeds) and level (0.05). The others: the parameters of Optuna's pruner, by its own names, with
    steps and resources in images seen, such as {n_startup_trials: 8, n_warmup_steps: 4096}. Where min_resource and
    max_resource are left out, they are the first validation and the cell's budget."""

    def _problems(self) -> Iterator[str]:
        try:
            if self.rule == RACING:
                from_dict(RacingOptions, self.options, within="options")
            else:
                self.pruner()
        except (ValueError, TypeError) as error:
            yield str(error)

    @property
    def racing(self) -> RacingOptions | None:
        """The options of racing; None where Optuna's pruner decides."""
        return from_dict(RacingOptions, self.options) if self.rule == RACING else None

    def pruner(self, first: int = 1, last: int = 2) -> Any:
        """Optuna's pruner.

        Args:
            first: images seen at a cell's first validation.
            last: images of its budget.

        Raises:
            ValueError: an option is not one of its parameters, or has a value that it refuses.
        """
        own = {name: value for name, value in self.options.items() if value != "auto"}
        low = own.get("min_resource", first)
        resources = {"min_resource": first, "max_resource": max(last, low) if type(low) is int else last}
        defaults = {name: resources[name] for name in HALVING.get(self.rule, ())}
        return _pruner(self.rule, defaults | own, "options")


def _pruner(rule: str, options: Mapping[str, Any], where: str) -> Any:
    cls = resolve(PRUNERS[rule])
    parameters = inspect.signature(cls).parameters
    kinds, values = typing.get_type_hints(cls.__init__), dict(options)
    if rule == "patient":
        values[WRAPPED] = _wrapped(values.get(WRAPPED), f"{where}.{WRAPPED}")
    for name, value in values.items():
        if name not in parameters:
            raise ValueError(f"{where}.{name} is not a parameter of rule={rule}, which has {', '.join(parameters)}")
        if name != WRAPPED and not _fits(kinds[name], value):
            raise ValueError(f"{where}.{name}={value!r} is not of the type that Optuna takes, {_shown(kinds[name])}")
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in values]
    if missing:
        raise ValueError(f"{where}: rule={rule} needs {', '.join(missing)}")
    if rule == "threshold" and not {"lower", "upper"} & values.keys():
        raise ValueError(f"{where}: rule=threshold needs lower, upper or both")
    if rule == "hyperband":
        _check_hyperband(values, where)
    with warnings.catch_warnings():
        # Optuna 5.0 calls PatientPruner experimental.
        warnings.simplefilter("ignore")
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {str(error).rstrip('.')}") from None


def _wrapped(given: Any, where: str) -> Any:
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.keys() - {"rule", "options"} or given.get("rule") not in WRAPPABLE:
        raise ValueError(f"{where}={given!r} needs {{rule: NAME, options: {{...}}}} with one of {', '.join(WRAPPABLE)}")
    return _pruner(given["rule"], given.get("options") or {}, f"{where}.options")


def _check_hyperband(options: Mapping[str, Any], where: str) -> None:
    """Refuse what Optuna's HyperbandPruner (5.0) fails on only while cells train."""
    low, high, factor = options["min_resource"], options["max_resource"], options.get("reduction_factor", 2)
    if isinstance(high, str) or not 1 <= low <= high or factor < 2:
        raise ValueError(f"{where}: rule=hyperband needs 1 <= min_resource <= max_resource and reduction_factor >= 2")


def _fits(kind: Any, value: Any) -> bool:
    try:
        # `strict`: True is not a 1. An int is a float.
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def pruning_problems(study: "StudyConfig") -> Iterator[str]:
    """A sentence for each part of a study that does not go together with `study.pruning`.

    Args:
        study: the study, whose other parts are right.
    """
    pruning = study.pruning
    if pruning is None:
        return
    if study.rounding is not None:
        yield "pruning and rounding do not go together: a cell that is given up has no second training to compare with"
    if pruning.racing is None:
        if study.until is not None:
            yield (
                f"pruning.rule={pruning.rule} and until do not go together: seeds that begin badly would be left out "
                "of the interval; take rule=racing, which never gives up a cell of the primary comparison"
            )
        return
    block, most = pruning.racing.block, max(map(len, (study.seeds, *study.seeds_at_size.values())))
    if most <= block:
        yield f"pruning.rule=racing saves nothing: {most} seeds are at most one block of {block} (options.block)"
