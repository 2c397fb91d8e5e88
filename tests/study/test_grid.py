"""Axes to cells."""

from typing import Any

import pytest

from lina_lab.model.count import training_operations
from lina_lab.study.grid import make_plan
from lina_lab.util.nested import flatten


def test_axes_and_seeds_are_crossed_with_whole_grids_first(tiny_study: Any) -> None:
    study, base = tiny_study(seeds=[0, 1])
    cells = make_plan(study, base).cells
    assert [(c.config.seed, *c.axes.values()) for c in cells] == [
        (seed, normalization, dim)
        for seed in (0, 1)
        for normalization in ("division", "subtraction")
        for dim in (8, 16)
    ]
    assert len({c.config_hash for c in cells}) == 8
    assert all(c.config_hash == c.config.config_hash() for c in cells)
    assert cells[1].config.model.attention.normalization == "division"
    assert cells[1].config.model.dim == 16


def test_fields_of_one_axis_move_together(tiny_study: Any) -> None:
    study, base = tiny_study(axes={"size": {"model.dim": [8, 16], "model.num_heads": [2, 4]}})
    cells = make_plan(study, base).cells
    assert [(c.config.model.dim, c.config.model.num_heads) for c in cells] == [(8, 2), (16, 4)]
    base["model"]["dim"] = 16
    assert [c.config.model.num_heads for c in make_plan(study, base, ["model.dim"]).cells] == [4]


def test_a_pinned_field_fixes_its_axis_to_any_value(tiny_study: Any) -> None:
    study, base = tiny_study(seeds=[0, 1])
    base["model"]["dim"], base["seed"] = 24, 9
    cells = make_plan(study, base, ["model.dim", "seed"]).cells
    assert {(c.config.model.dim, c.config.seed) for c in cells} == {(24, 9)}
    assert len(cells) == 2


def test_what_is_shared_does_not_depend_on_axes_or_seed(tiny_study: Any) -> None:
    study, base = tiny_study()
    shared = make_plan(study, base).base
    base["model"]["dim"], base["seed"] = 24, 9
    assert make_plan(study, base).base == shared
    base["trainer"]["max_images"] = 128
    assert make_plan(study, base).base != shared


@pytest.mark.parametrize("field", ["model.dimm", "model", "model.dim.x", "nothing.dim", "study.name"])
def test_an_axis_of_an_unknown_field_is_refused(tiny_study: Any, field: str) -> None:
    study, base = tiny_study(axes={"size": {field: [8, 16]}})
    with pytest.raises(ValueError, match=field):
        make_plan(study, base)


def test_a_value_that_a_trial_refuses_is_refused(tiny_study: Any) -> None:
    study, base = tiny_study(axes={"size": {"model.dim": [8, 9]}})
    with pytest.raises(ValueError, match="dim=9 is not a multiple of num_heads=2"):
        make_plan(study, base)


def test_equal_cells_are_refused(tiny_study: Any) -> None:
    study, base = tiny_study(axes={"size": {"model.dim": [8, 8]}})
    with pytest.raises(ValueError, match="two cells of the study are equal: 8 seed 0"):
        make_plan(study, base)


def test_cells_under_mup_must_share_the_channels_of_a_head(tiny_study: Any) -> None:
    widths = {"model.dim": [8, 16], "model.num_heads": [2, 4]}
    parametrization = {"model.parametrization": ["standard", "mup"], "model.base_dim": [None, 8]}
    study, base = tiny_study(axes={"parametrization": parametrization, "size": widths})
    assert len(make_plan(study, base).cells) == 4
    study, base = tiny_study(axes={"parametrization": parametrization, "size": {"model.dim": [8, 16]}})
    with pytest.raises(
        ValueError, match=r"mup needs the same channels of a head in all cells of a study, not 4 and 8$"
    ):
        make_plan(study, base)
    study, base = tiny_study(
        axes={"size": widths | {"model.parametrization": ["mup", "mup"], "model.base_dim": [4, 8]}}
    )
    with pytest.raises(ValueError, match=r"mup needs the same base_dim in all cells of a study, not 4 and 8$"):
        make_plan(study, base)


def test_flatten_names_leaves_by_their_path() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_cells_are_left_out_by_rule(tiny_study: Any) -> None:
    rule = {"model.attention.normalization": "subtraction", "model.dim": [16, 24]}
    plan = make_plan(*tiny_study(exclude=[rule]))
    assert [tuple(cell.axes.values()) for cell in plan.cells] == [("division", 8), ("division", 16), ("subtraction", 8)]


def test_sizes_may_have_seeds_of_their_own(tiny_study: Any) -> None:
    plan = make_plan(*tiny_study(seeds=[0, 1], seeds_at_size={"16": [1, 2, 3]}))
    seeds = {8: set(), 16: set()}  # type: ignore[var-annotated]
    for cell in plan.cells:
        seeds[cell.config.model.dim].add(cell.config.seed)
    assert seeds == {8: {0, 1}, 16: {1, 2, 3}}
    assert len(plan.cells) == 2 * 5


def test_a_budget_in_flops_gives_each_size_its_images(tiny_study: Any) -> None:
    amount = 1e9
    plan = make_plan(*tiny_study(budget={"unit": "flops", "amount": amount}))
    spent = {2 * training_operations(c.config.model).total * c.config.trainer.max_images for c in plan.cells}
    assert all(abs(flops / amount - 1) < 0.01 for flops in spent)
    assert len({cell.config.trainer.max_images for cell in plan.cells}) > 1


def test_labels_name_values_that_are_long(tiny_study: Any) -> None:
    plain, softmax = {"conv": "none", "gate": "none"}, {"kind": "softmax", "conv": "none", "gate": "none"}
    axes = {"attention": {"model.attention": [plain, softmax]}, "size": {"model.dim": [8, 16]}}
    plan = make_plan(*tiny_study(axes=axes, labels={"attention": ["linear", "softmax"]}))
    assert [cell.label for cell in plan.cells][1:3] == ["linear 16 seed 0", "softmax 8 seed 0"]
    plan = make_plan(*tiny_study(axes=axes))
    assert plan.cells[0].label == '{"conv": "none", "gate": "none"} 8 seed 0'
