"""What the paper's abstract claims, in our own words, and what the numbers at hand say of each claim.

Evidence is computed from the published numbers, our own counts and our own studies, and judgements follow from it. Two
are open whatever the numbers are, since such data cannot decide: FID is one number, and the growth with width has one
seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from lina_lab.decisions.verdicts import Outcome
from lina_lab.records.runstore import TRAIN_LOSS

from ..load.errors import StoreError
from ..load.kinds import of_generation
from ..load.published import FID, read_published
from ..load.runs import StudyRuns
from ..stats.agreement import metric_agreement
from ..stats.budgets import TAIL
from ..stats.exploratory import exploratory
from ..stats.paired import mean_differences, paired_differences
from ..stats.verdicts import primary_verdict
from .metric_names import metric_name
from .paper_cost import LINA_FORM, cost_frame, image_saving
from .paper_studies import PaperTable, metrics_with
from .ratios import found_text
from .tables import count, plain, records, signed

GENEVAL_SE = 0.0125
"""Standard error of LINA's GenEval score of 0.743, clustered by prompt, as `stats.geneval` has it from the authors'
file of results (553 prompts of 4 images), which is not part of this repository."""
ROUNDING = 0.005
"""Half of the last digit of a share that is quoted in whole percent."""
SEED = "one seed: how far another seed would be is not known"


class Judgement(StrEnum):
    """What the numbers say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    OPEN = "cannot be judged"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and its judgement."""

    claim: str
    paper: str
    """What the paper gives for it."""
    evidence: str
    interval: str
    """The uncertainty of the evidence, or what is missing."""
    judgement: Judgement
    why: str


ReadStudy = Callable[[str], StudyRuns]


def claims_table(studies: Sequence[str], read: ReadStudy) -> PaperTable:
    """Judge the claims of the abstract.

    Args:
        studies: our studies of normalization, convolution and gates; those that the run store lacks are left out.
        read: reads a study; raises StoreError if it cannot be read.
    """
    published = read_published()
    means = mean_differences(paired_differences(published, TAIL))
    ours = _ours(studies, read)
    claims = [
        _attention_cost(),
        _image_cost(),
        _latency(),
        _fid(),
        _geneval(),
        _normalization(published, means, ours),
        _one_sided(means, "convolution", "A convolution is needed beside linear attention.", "it adds locality", ours),
        _one_sided(means, "gate", "The learned KV gate improves the model.", "it is part of LINA", ours, only="kv vs."),
    ]
    columns = ["claim", "the paper says", "evidence", "interval, or what is missing", "judgement", "why"]
    frame = pd.DataFrame([astuple(claim) for claim in claims], columns=columns)
    supported = sum(claim.judgement is Judgement.SUPPORTED for claim in claims)
    open_ = sum(claim.judgement is Judgement.OPEN for claim in claims)
    note = (
        f"Of {len(claims)} claims {supported} are supported, {len(claims) - supported - open_} contradicted, and "
        f"{open_} cannot be judged from what is held here."
    )
    return PaperTable(name="claims", title="The abstract, claim by claim", frame=frame, notes=(note,))


def _attention_cost() -> Claim:
    cost = cost_frame().set_index(["attention", "width"])["one attention, GMAC, ours"]
    saved = float(1 - cost[(LINA_FORM, 1536)] / cost[("softmax", 1536)])
    said = float(metrics_with(metric="flops_reduction")["value"].item())
    return Claim(
        claim="One linear attention needs far fewer operations than softmax attention at 1,024 px.",
        paper=f"{said:.0%} fewer",
        evidence=f"our count of one attention of width 1536 on 5,120 tokens: {saved:.1%} fewer",
        interval="a count, so exact",
        judgement=Judgement.SUPPORTED if abs(saved - said) < ROUNDING else Judgement.CONTRADICTED,
        why="our count agrees to the digit; it is of one attention, not of an image",
    )


def _image_cost() -> Claim:
    said = float(metrics_with(metric="flops_reduction")["value"].item())
    small, large = (image_saving(pixels) for pixels in (256, 1024))
    return Claim(
        claim="Images as a whole become as much cheaper (as a reader may take it).",
        paper=f"{said:.0%} of one attention; nothing on images",
        evidence=f"our count of an image of width 1536: {small:.1%} fewer operations at 256 px, {large:.1%} at "
        "1,024 px",
        interval="a count, so exact; guidance and the text encoder are not counted",
        judgement=Judgement.SUPPORTED if min(small, large) > said - ROUNDING else Judgement.CONTRADICTED,
        why="most operations are outside of attention",
    )


def _latency() -> Claim:
    seconds = metrics_with(metric="image_latency")
    softmax = seconds["normalization"] == "softmax"
    before, after = (float(seconds[chosen]["value"].item()) for chosen in (softmax, ~softmax))
    return Claim(
        claim="Large images become faster to generate.",
        paper="efficient generation up to 1,024 px",
        evidence=f"the authors' log at 1,024 px: LINA {after:.2f} s, softmax {before:.2f} s "
        f"({after / before - 1:+.0%})",
        interval="missing: one number for each, without repetitions",
        judgement=Judgement.SUPPORTED if after < before else Judgement.CONTRADICTED,
        why="fewer operations are not less time" if after >= before else "less time",
    )


def _fid() -> Claim:
    best = metrics_with(metric="fid", model="LINA c2i").iloc[0]
    other = metrics_with(metric="fid", model="NOVA-0.3B softmax").iloc[0]
    return Claim(
        claim="Class-conditional images at 256 px are competitive.",
        paper=f"FID {best['value']:.2f} (width {best['width']:.0f}, {best['iteration']:,.0f} iterations)",
        evidence=f"the authors' log of a softmax model of width {other['width']:.0f} after {other['iteration']:,.0f} "
        f"iterations: FID {other['value']:.2f}",
        interval="missing: seeds of training and of sampling, and softmax at equal size and training",
        judgement=Judgement.OPEN,
        why="one number without an interval; the models differ in size, training and guidance",
    )


def _geneval() -> Claim:
    scores = metrics_with(metric="geneval").sort_values("value", ascending=False)
    high, low = (row["value"] for row in records(scores)[:2])
    reach = 2 * GENEVAL_SE
    told = high - low > np.hypot(reach, reach)
    return Claim(
        claim="Text-to-image accuracy (GenEval) holds up to 1,024 px.",
        paper=f"{high:.2f} at 512 px and {low:.2f} at 1,024 px",
        evidence="the published scores only; `lina paper geneval=FILE` adds ours",
        interval=f"±{reach:.3f} each (95%, clustered by prompt), ±{np.hypot(reach, reach):.3f} for their difference",
        judgement=Judgement.CONTRADICTED if told else Judgement.OPEN,
        why=f"the two differ by {high - low:.2f}, {'more' if told else 'less'} than the prompts explain; accuracies by "
        "task and softmax's score are not held",
    )


def _normalization(published: StudyRuns, means: pd.DataFrame, ours: pd.DataFrame) -> Claim:
    """Division scales better if subtraction falls behind with width, in loss and FID, with and without convolution."""
    mine = means[means["axis"] == "normalization"]
    losses = mine[mine["metric"] == published.study.objective]
    texts, growths = [], []
    for label, group in losses.groupby("comparison", sort=False):
        ends = group.set_index("size")["difference"]
        growths.append(float(ends.iloc[-1] - ends.iloc[0]))
        texts.append(f"{label}: loss {', '.join(f'{signed(d)} at {size}' for size, d in ends.items())}")
    for row in records(mine[mine["metric"] == FID]):
        values = published.cells[published.cells["size"] == row["size"]].set_index("variant")[FID].to_dict()
        both = f"{values[row['treatment']]:.2f} against {values[row['baseline']]:.2f}"
        texts.append(f"FID {both} at {row['size']} ({row['comparison']})")
    agree = len({growth > 0 for growth in growths}) == 1
    disagree = metric_agreement(means, published.study.objective, FID)
    disagree = disagree[disagree["disagree"] & disagree["comparison"].isin(losses["comparison"])]
    if len(ours) and (ours["axis"] == "normalization").any():
        texts += list(ours[ours["axis"] == "normalization"]["text"])
    why = "with one seed and unequal images for the widths no growth can be told from the seed's"
    if not agree:
        why = f"the difference grows one way with convolution and the other way without; {why}"
    if len(disagree):
        sizes = " and ".join(str(size) for size in dict.fromkeys(disagree["size"]))
        why += f"; loss and FID disagree at width {sizes}"
    return Claim(
        claim="Division scales better with width than subtraction.",
        paper="division is chosen for its scaling",
        evidence="; ".join(texts),
        interval=f"{SEED}; a deviation above {plain(max(map(abs, growths)) / 1.96)} would explain the larger growth",
        judgement=Judgement.OPEN,
        why=why,
    )


def _one_sided(means: pd.DataFrame, axis: str, claim: str, paper: str, ours: pd.DataFrame, only: str = "") -> Claim:
    """Judge a claim that a change along an axis is better, by whether all pairs of published runs agree."""
    mine = means[(means["axis"] == axis) & means["comparison"].str.startswith(only)]
    signs = mine["difference"] < 0
    texts = [
        f"{metric_name(str(metric))} lower in {int((group['difference'] < 0).sum())} of {count(len(group), 'pair')} "
        f"({signed(group['difference'].min())} to {signed(group['difference'].max())})"
        for metric, group in mine.groupby("metric", sort=False)
    ]
    losses = mine[mine["metric"] == TRAIN_LOSS]["difference"]
    pairs = len(losses)
    chance = 2 * 0.5**pairs
    texts += list(ours[ours["axis"] == axis]["text"]) if len(ours) else []
    judged, why = Judgement.OPEN, "too few pairs"
    if signs.any() and not signs.all():
        why = "the pairs do not agree"
    elif chance < 0.05:
        judged = Judgement.SUPPORTED if signs.all() else Judgement.CONTRADICTED
        why = f"all {pairs} pairs point one way, which independent pairs do by chance with p = {chance:.2f}"
    return Claim(
        claim=claim,
        paper=paper,
        evidence="; ".join(texts),
        interval=f"{SEED}; a deviation above {plain(losses.abs().min() / 1.96)} would explain the smallest difference",
        judgement=judged,
        why=why,
    )


def _ours(studies: Sequence[str], read: ReadStudy) -> pd.DataFrame:
    """Return what our own studies say: `axis`, `text`; of each comparison the largest size, and the primary one."""
    rows = []
    for study in dict.fromkeys(studies):
        try:
            runs = read(study)
            generation = of_generation(runs)
        except StoreError:
            continue
        verdict = primary_verdict(runs)
        if verdict is not None and verdict.outcome is not Outcome.NO_INTERVAL and runs.study.primary is not None:
            text = f"our study {study}, primary, {verdict.label}: {found_text(verdict)}"
            rows.append({"axis": runs.study.primary.axis, "text": text})
        table = exploratory(generation)
        held = table[table["holm"].notna() & (table["metric"] == runs.study.objective)]
        for (axis, label), group in held[held["kind"] == "difference"].groupby(["axis", "comparison"], sort=False):
            row = records(group.tail(1))[0]
            ends = f"{signed(row['low'])} to {signed(row['high'])}"
            text = f"our study {study}, {label}, size {row['size']}: {signed(row['difference'])} (95% CI {ends})"
            rows.append({"axis": str(axis), "text": f"{text}, {row['outcome']} after correction"})
    return pd.DataFrame(rows, columns=["axis", "text"])
