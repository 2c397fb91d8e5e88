"""The top of a report in sentences: the primary comparison, what its interval allows, and what else holds."""

import math
from collections.abc import Iterable

import pandas as pd

from lina_lab.decisions.verdicts import Outcome

from ..load.runs import StudyRuns
from ..stats.exploratory import Kind
from ..stats.primary_interval import Method
from ..stats.tuned import TunedRate
from ..stats.verdicts import PrimaryVerdict
from .metric_names import metric_name
from .ratios import ratio_sentences, unit, value_text
from .tables import count, plain, records, signed, size_text

NO_PRIMARY = "No primary comparison was declared: everything here is exploratory."
NO_PAIRS = "There is nothing to compare: no two variants that finished differ in one axis only."
ONE_SEED = (
    "Every cell has one seed, so no difference can be judged against seeds. The table says how large the deviation "
    "over seeds would have to be to explain a difference (|difference| / 1.96). The block standard error is the noise "
    "within runs only."
)
SOME_ONE_SEED = "Comparisons with one seed have no interval."
HOW = "Differences are treatment minus baseline, paired by seed; CI: 95% confidence interval"
METHODS = {
    Method.STUDENT: "Student's t over seeds",
    Method.MODERATED: "Student's t over seeds, with a variance that the other sizes share in",
    Method.SEQUENTIAL: "a repeated confidence interval, valid at every look",
}


def primary_sentences(verdict: PrimaryVerdict, size_axis: str) -> list[str]:
    """Return the question, its answer with interval and seeds, and what qualifies it."""
    where = f"{size_axis} {verdict.sizes[-1]}"
    subject = f"{metric_name(verdict.metric)} of {verdict.label}"
    if verdict.quantity == "growth":
        question = f"{subject}: does the difference change from {size_axis} {verdict.sizes[0]} to {verdict.sizes[-1]}"
    else:
        question = f"{subject}, {where}"
    lines = [f"Primary comparison: {question}{'?' if verdict.quantity == 'growth' else '.'}"]
    if verdict.outcome is Outcome.NO_INTERVAL:
        lines.append(no_interval(verdict))
    elif verdict.scale == "log" or verdict.quantity == "interaction":
        lines += ratio_sentences(verdict, METHODS[verdict.method])
    else:
        lines.append(_answer(verdict))
    return [*lines, *_margin(verdict), *_power(verdict), *_looks(verdict), _diverged(verdict), *_tuned(verdict)]


def _answer(verdict: PrimaryVerdict) -> str:
    interval = verdict.interval
    value = signed(interval.value)
    ends = f"95% CI {signed(interval.low)} to {signed(interval.high)}, {count(verdict.seeds, 'seed')}"
    evidence = f"{value} ({ends}; {METHODS[verdict.method]})"
    if verdict.outcome in (Outcome.LOWER, Outcome.HIGHER):
        better = (verdict.outcome is Outcome.LOWER) == (verdict.direction == "minimize")
        if verdict.quantity == "growth":
            return f"Answer: yes, it {'falls' if verdict.outcome is Outcome.LOWER else 'rises'} by {evidence}."
        winner, loser = verdict.treatment, verdict.baseline
        if not better:
            winner, loser = loser, winner
        return f"Answer: {verdict.outcome}, {evidence}; “{winner}” is better than “{loser}”."
    if verdict.outcome is Outcome.EQUIVALENT:
        return f"Answer: equivalent, {evidence}: the interval lies within ±{plain(verdict.margin)}."
    return f"Answer: undecided, {evidence}: the interval includes zero."


def no_interval(verdict: PrimaryVerdict) -> str:
    """Return the answer of a comparison that has no interval."""
    if verdict.seeds == 1:
        value, needed = value_text(verdict.interval.value, verdict), plain(verdict.needed_deviation)
        return (
            f"Answer: {value} in one seed, which cannot be judged against seeds; a deviation over seeds above "
            f"{needed}{unit(verdict)} would be needed to explain it."
        )
    return f"Answer: none, because {verdict.reason}."


def _margin(verdict: PrimaryVerdict) -> list[str]:
    if verdict.margin is None:
        return ["No margin of equivalence was declared."]
    margin = f"±{plain(verdict.margin)}{unit(verdict)}"
    if verdict.outcome in (Outcome.LOWER, Outcome.HIGHER) and verdict.within_margin:
        return [f"The whole interval lies within the margin of {margin}: too small to matter."]
    if verdict.outcome is Outcome.EQUIVALENT:
        return []
    return [f"Margin of equivalence: {margin}; the interval is not within it."]


def _power(verdict: PrimaryVerdict) -> list[str]:
    if math.isnan(verdict.resolvable):
        return []
    seeds = count(verdict.seeds, "seed")
    line = (
        f"Power: {seeds} with a deviation of {plain(verdict.deviation)} could have resolved "
        f"{plain(verdict.resolvable)}{unit(verdict)} four times in five"
    )
    if verdict.outcome is Outcome.UNDECIDED and verdict.seeds_needed is not None:
        line += f"; a difference as large as the observed one needs about {count(verdict.seeds_needed, 'seed')}"
    if verdict.regret_low or verdict.regret_high:
        line += "; without the uncertainty of the tuned values, which more seeds do not lower"
    return [f"{line}."]


def _looks(verdict: PrimaryVerdict) -> list[str]:
    if verdict.max_seeds is None:
        return []
    seeds = count(verdict.max_seeds, "seed")
    ends = f"ended at {seeds}" if verdict.seeds >= verdict.max_seeds else f"ends at {seeds} in any case"
    return [f"Looks: {verdict.looks}; the study {ends}."]


def _diverged(verdict: PrimaryVerdict) -> str:
    if not any(lost for lost, _ in verdict.diverged.values()):
        return "Diverged: no seed of either variant."
    found = [f"“{variant}” in {lost} of {count(ended, 'seed')}" for variant, (lost, ended) in verdict.diverged.items()]
    return f"Diverged: {' and '.join(found)}; differences are of the seeds in which both finished."


def _tuned(verdict: PrimaryVerdict) -> list[str]:
    if not verdict.tuned:
        return []
    rates = [f"{rate.field} {_value(rate)} for “{rate.variant}”, chosen at {rate.size}" for rate in verdict.tuned]
    wider = ""
    if verdict.regret_low or verdict.regret_high:
        low, high = plain(verdict.regret_low), plain(verdict.regret_high)
        by = f"{low} below and {high} above{unit(verdict)}"
        wider = f"; the interval is wider by {by} for what these choices may give away"
    return [f"Tuned: {', '.join(rates)}{wider}."]


def _value(rate: TunedRate) -> str:
    return "none" if rate.choice.value is None else f"{rate.choice.value:g}"


def exploratory_sentences(table: pd.DataFrame, metric: str) -> list[str]:
    """Say how many exploratory comparisons hold after the correction, and which of the main objective.

    Args:
        table: see `stats.exploratory.exploratory`.
        metric: the main objective.
    """
    tested = table[table["holm"].notna()]
    if tested.empty:
        return [f"{HOW.partition(';')[0]}.", ONE_SEED, *_largest(table, metric)] if len(table) else [NO_PAIRS]
    held = tested[tested["outcome"].isin([Outcome.LOWER, Outcome.HIGHER])]
    shown = f"{HOW}, Student's t over seeds; p (Holm): corrected for all {len(tested)} exploratory comparisons."
    lines = [shown, *([SOME_ONE_SEED] if len(tested) < len(table) else [])]
    kinds = (
        "differences, growths and interactions"
        if (tested["kind"] == Kind.INTERACTION).any()
        else "differences and growths"
    )
    lines.append(f"Exploratory: {len(held)} of {len(tested)} {kinds} hold after the correction.")
    mine = held[held["metric"] == metric]
    for (label, kind), group in mine.groupby(["comparison", "kind"], sort=False):
        if kind != Kind.LOG_GROWTH:
            lines.append(f"{label}: {'; '.join(_directions(group, str(kind)))}.")
    return lines


def _largest(table: pd.DataFrame, metric: str) -> list[str]:
    """Say of the largest difference what would be needed to explain it by the seed."""
    mine = table[(table["metric"] == metric) & (table["kind"] == Kind.DIFFERENCE)]
    if mine.empty:
        return []
    row = records(mine.loc[[mine["difference"].abs().idxmax()]])[0]
    where = f"{row['comparison']} {signed(row['difference'])} at {size_text(row['size'])}"
    needed = f"a deviation over seeds above {plain(row['needed_deviation'])} would be needed to explain it"
    return [f"The largest difference in {metric_name(metric)}: {where}; {needed}."]


def _directions(group: pd.DataFrame, kind: str) -> Iterable[str]:
    for outcome, rows in group.groupby("outcome", sort=False):
        if kind == Kind.GROWTH:
            row = records(rows)[0]
            word = "falls" if outcome == Outcome.LOWER else "rises"
            yield f"the difference {word} from {size_text(row['smallest'])} to {size_text(row['largest'])}"
        else:
            sizes = [size_text(size) for size in rows["size"]]
            yield f"{outcome} at {' and '.join(part for part in (', '.join(sizes[:-1]), sizes[-1]) if part)}"


def answer_sentences(runs: StudyRuns, verdict: PrimaryVerdict | None, table: pd.DataFrame) -> list[str]:
    """Return all sentences of the top section."""
    top = [NO_PRIMARY] if verdict is None else primary_sentences(verdict, runs.study.size_axis)
    return [*top, *exploratory_sentences(table, runs.study.objective)]
