"""The interval of the primary comparison: which one, and at which looks."""

from collections.abc import Sequence
from enum import StrEnum

from lina_lab.config import ContrastTerm, StudyConfig
from lina_lab.config.primary import other_sizes
from lina_lab.decisions.moderated import interval_of_seeds
from lina_lab.decisions.sequential import MeanInterval, look_levels, looks, sequential_interval

from ..load.labels import as_text
from ..load.runs import StudyRuns
from . import contrasts


class Method(StrEnum):
    """How an interval was made."""

    STUDENT = "student"
    """Student's t over seeds."""
    MODERATED = "moderated"
    """The same with a variance that other sizes share in."""
    SEQUENTIAL = "sequential"
    """Repeated confidence interval: valid at every look of `study.until`."""


def interval_of(
    runs: StudyRuns, terms: Sequence[ContrastTerm], metric: str, values: Sequence[float]
) -> tuple[MeanInterval, Method, float]:
    """Return the interval before it is widened, how it was made, and the confidence of the test at the last look."""
    study = runs.study
    if study.until is not None:
        planned = _planned_looks(study, terms)
        return sequential_interval(values, planned), Method.SEQUENTIAL, 1 - look_levels(planned)[-1]
    others = [list(contrasts.found(runs, at_size, metric).values.values()) for at_size in other_sizes(study, terms)]
    interval, shared = interval_of_seeds(values, others)
    return interval, Method.MODERATED if shared else Method.STUDENT, 0.95


def looks_taken(study: StudyConfig, terms: Sequence[ContrastTerm], seeds: int) -> int:
    """Return how often the results were looked at until so many seeds had ended; 1 without `study.until`."""
    return max(1, sum(count <= seeds for count in _planned_looks(study, terms))) if study.until else 1


def _planned_looks(study: StudyConfig, terms: Sequence[ContrastTerm]) -> tuple[int, ...]:
    """Return the numbers of seeds at which the study looks; it starts with the seeds that all terms' cells share."""
    assert study.until is not None
    field = next(iter(study.axes[study.size_axis]))
    own = [study.seeds_at_size.get(as_text(term.values[field]), study.seeds) for term in terms]
    first = len(set.intersection(*map(set, own)))
    return looks(first, max(study.until.max_seeds, first), study.until.step)
