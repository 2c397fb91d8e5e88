"""Which laws a study's design allows, and that `lina plan` and the report say the same."""

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from lina_lab.analysis.load.cells import LOSSES, _derived
from lina_lab.analysis.load.labels import variant_label
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.narrative import design_sentences
from lina_lab.analysis.report.study_report import analyze_study
from lina_lab.analysis.stats.budgets import audit_runs, confounded

from lina_lab.config import StudyConfig, from_dict, to_dict
from lina_lab.config.cautions import cautions
from lina_lab.config.factors import FactorKind, LawKind
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.plan import audit

VARIANTS = {"model.attention.normalization": ["division", "subtraction"]}
WIDTHS = {"model.dim": [16, 32, 64], "model.num_heads": [2, 4, 8]}
DESIGNS: dict[str, tuple[dict[str, Any], dict[LawKind, str]]] = {
    "one rate for all widths": ({}, {}),
    "a rate for each width": ({"axes": {"size": WIDTHS | {"optimizer.lr": [8e-3, 4e-3, 2e-3]}}}, {}),
    "a budget in FLOPs": (
        {"budget": {"unit": "flops", "amount": 2e10}},
        {LawKind.SIZE: "images seen, optimizer steps and share of the budget in warm-up"},
    ),
    "images that grow with size": (
        {"axes": {"size": WIDTHS | {"trainer.max_images": [640, 1280, 2560]}}},
        {LawKind.SIZE: "images seen, optimizer steps and share of the budget in warm-up"},
    ),
    "a longer warm-up of one size": (
        {"axes": {"size": WIDTHS | {"optimizer.warmup_images": [64, 64, 128]}}},
        {LawKind.SIZE: "share of the budget in warm-up"},
    ),
    "a batch that grows with size": (
        {"axes": {"size": WIDTHS | {"data.batch_size": [16, 32, 64]}}},
        {
            LawKind.SIZE: "batch in images, batch in tokens, optimizer steps and images that the average reaches back",
            LawKind.SIZE_AND_DATA: "batch in images, batch in tokens and images that the average reaches back",
            LawKind.COMPUTE: "batch in images, batch in tokens and images that the average reaches back",
        },
    ),
    "an average that reaches further back": (
        {"axes": {"size": WIDTHS | {"ema.every_n_steps": [1, 1, 2]}}},
        dict.fromkeys(LawKind, "images that the average reaches back"),
    ),
}
"""Name -> what is changed in the study, and which laws it confounds."""


def designed(tiny: Any, study: dict[str, Any]) -> Plan:
    axes = {"normalization": VARIANTS, "size": WIDTHS} | study.get("axes", {})
    defined = {"name": "designed", "question": "?", "size_axis": "size", "seeds": [0, 1], **study, "axes": axes}
    base = tiny(trainer={"max_images": 640, "val_every_images": 320}, optimizer={"warmup_images": 64})
    return make_plan(from_dict(StudyConfig, defined), to_dict(base))


def trained(plan: Plan, planted: Any) -> StudyRuns:
    """The plan's cells as the report reads them, with a loss that falls with size and images."""
    size = next(iter(plan.study.axes["size"]))
    rows, checkpoints, history = [], [], []
    for cell in plan.cells:
        keys = {"cell": cell.config_hash, "variant": variant_label(plan.study, cell.axes), "seed": cell.config.seed}
        keys |= {"size": cell.axes[size]}
        derived = _derived(json.dumps(to_dict(cell.config)))
        end = cell.config.images_seen
        for images in (end // 4, end // 2, end):
            loss = 3 * derived["parameters"] ** -0.1 + 2 * images**-0.3 + 0.001 * cell.config.seed
            if "division" in keys["variant"]:
                loss *= 1.01
            known = {name: derived[name] for name in ("parameters", "body_parameters")}
            checkpoints.append(
                {**keys, **known, "images": images, "flops": derived["flops_per_image"] * images}
                | {"state": "done", "reason": "", **dict.fromkeys(LOSSES, loss)}
            )
            history += [{**keys, "metric": m, "images": images, "value": loss} for m in LOSSES]
        fields = {field: str(value) for field, value in cell.axes.items()}
        rows.append({**keys, **fields, **derived, **dict.fromkeys(LOSSES, loss)})
    cells = pd.DataFrame(rows).sort_values(["variant", "size", "seed"]).reset_index(drop=True)
    return replace(
        planted(lambda *_: 0.0),
        study=plan.study,
        cells=cells.assign(images_per_second=1.0, fit_seconds=1.0, peak_memory_mib=1.0),
        history=pd.DataFrame(history),
        checkpoints=pd.DataFrame(checkpoints),
    )


@pytest.mark.parametrize("design", DESIGNS)
def test_a_law_is_refused_only_where_something_else_explains_it(tiny: Any, planted: Any, design: str) -> None:
    study, expected = DESIGNS[design]
    plan = designed(tiny, study)
    runs = trained(plan, planted)
    assert audit(plan).confounded == expected == confounded(runs)
    fits = analyze_study(runs).fits
    allowed = set(LawKind) - set(expected)
    if fits is None:
        assert not allowed
        return
    fitted = {
        LawKind.SIZE: fits.shared is not None,
        LawKind.SIZE_AND_DATA: fits.surface is not None,
        LawKind.COMPUTE: fits.compute is not None,
    }
    assert {law for law, done in fitted.items() if done} == allowed


@pytest.mark.parametrize("design", DESIGNS)
def test_the_plan_and_the_report_print_the_same_audit(tiny: Any, planted: Any, design: str) -> None:
    plan = designed(tiny, DESIGNS[design][0])
    runs, lines = trained(plan, planted), audit(plan).sentences()
    assert len(lines) >= 3
    assert audit_runs(runs).sentences() == lines == design_sentences(runs, ())


def test_the_report_says_what_is_slower_than_the_budget(tiny: Any, planted: Any) -> None:
    plan = designed(tiny, {"axes": {"size": WIDTHS | {"optimizer.warmup_images": [64, 64, 6400]}}})
    runs = trained(plan, planted)
    (sentence,) = plan.cautions()
    runs = replace(runs, cells=runs.cells.assign(cautions=["\n".join(cautions(cell.config)) for cell in plan.cells]))
    assert design_sentences(runs, ())[0] == f"{sentence}."


def test_a_rate_for_each_width_is_shown_as_a_condition(tiny: Any, planted: Any) -> None:
    plan = designed(tiny, DESIGNS["a rate for each width"][0])
    line = "Change with size as a condition of fairness: learning rate (0.008 at 16, 0.004 at 32, 0.002 at 64)."
    assert line in audit(plan).sentences()
    assert "learning rate" not in audit(plan).equal


def test_a_rate_for_each_variant_and_width_is_shown_with_its_range(tiny: Any, planted: Any) -> None:
    runs = trained(designed(tiny, {}), planted)
    tuned = runs.cells["size"].map({16: 8e-3, 32: 4e-3, 64: 2e-3})
    tuned = tuned.mask(runs.cells["variant"] == "subtraction", 4e-3)
    found = audit_runs(replace(runs, cells=runs.cells.assign(**{"learning rate": tuned})))
    assert found.changing_of(FactorKind.CONDITION) == {
        "learning rate": "0.004 to 0.008 at 16, 0.004 at 32, 0.002 to 0.004 at 64"
    }
    assert not found.confounded


def test_what_differs_between_variants_alone_is_neither_equal_nor_changing(tiny: Any) -> None:
    found = audit(designed(tiny, {"axes": {"normalization": {"optimizer.lr": [1e-3, 2e-3]}}}))
    assert found.differing == {"learning rate": "0.001 to 0.002 at 16, 0.001 to 0.002 at 32, 0.001 to 0.002 at 64"}
    assert "learning rate" not in {*found.equal, *found.changing}


def test_channels_of_a_head_that_grow_with_width_are_named(tiny: Any) -> None:
    found = audit(designed(tiny, {"axes": {"size": {"model.dim": [16, 32, 64]}}}))
    assert found.changing == {"channels of a head": "8 at 16, 16 at 32, 32 at 64"}
    assert found.equal["heads"] == "2"
    assert not found.confounded
