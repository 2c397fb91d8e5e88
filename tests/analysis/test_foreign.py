"""Scaling laws of other people's runs: planted tables, published numbers, and tables that are refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.fit import COMMAND, FitConfig, fit_points
from lina_lab.analysis.report.foreign import as_json
from mlflow import MlflowClient

from lina_lab.config.grammar import parse

FOREIGN = Path(os.environ.get("LINA_FOREIGN_DATA", Path(__file__).parents[3] / "shared/reference/foreign"))
E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37
BEST_SIZE = BETA / (ALPHA + BETA)
T90 = 1.645
Fitted = Callable[..., dict[str, Any]]


def surface(sizes: Any, data: Any) -> Any:
    return E + A * sizes**-ALPHA + B * data**-BETA


def table(noise: float = 0.004, seed: int = 0) -> pd.DataFrame:
    """Runs of a planted law, on a grid of sizes and amounts of data."""
    sizes, data = (part.ravel() for part in np.meshgrid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 3e11, 7)))
    losses = surface(sizes, data) * np.exp(np.random.default_rng(seed).normal(0, noise, len(sizes)))
    return pd.DataFrame({"params": sizes, "tokens": data, "loss": losses})


def at_budgets(noise: float = 0.001, seed: int = 0) -> pd.DataFrame:
    """Runs of the planted law at five budgets, with sizes around the best one."""
    parts = []
    for budget in np.geomspace(1e19, 1e22, 5):
        best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (budget / 6) ** BEST_SIZE
        sizes = best * np.geomspace(1 / 4, 4, 7)
        parts.append(pd.DataFrame({"params": sizes, "tokens": budget / 6 / sizes, "budget": budget}))
    points = pd.concat(parts, ignore_index=True)
    errors = np.exp(np.random.default_rng(seed).normal(0, noise, len(points)))
    return points.assign(loss=surface(points["params"], points["tokens"]) * errors)


COLUMNS = ("size=params", "data=tokens", "loss=loss")


@pytest.fixture
def fitted(tmp_path: Path) -> Fitted:
    """Fits a table as the command does, and returns what `fit.json` would hold; no figure is drawn."""

    def call(points: pd.DataFrame | Path, *fields: str) -> dict[str, Any]:
        path = points if isinstance(points, Path) else tmp_path / "points.csv"
        if isinstance(points, pd.DataFrame):
            points.to_csv(path, index=False)
        own = {field.partition("=")[0] for field in fields}
        usual = [field for field in COLUMNS if field.partition("=")[0] not in own]
        return as_json(fit_points(parse(FitConfig, [f"table='{path}'", *usual, *fields])))

    return call


def holds(number: dict[str, Any], truth: float) -> bool:
    return bool(number["status"] == "ok" and number["low"] < truth < number["high"])


def foreign(name: str) -> Path:
    path = FOREIGN / name
    if not path.is_file():
        pytest.skip(f"other people's points are not here: no {name} in LINA_FOREIGN_DATA")
    return path


def test_a_planted_law_is_found_with_intervals_that_hold_it(fitted: Fitted) -> None:
    numbers = fitted(table(), "level=0.99")["numbers"]
    for name, truth in {"E": E, "A": A, "alpha": ALPHA, "B": B, "beta": BETA}.items():
        assert holds(numbers[f"law.{name}"], truth), name
    assert numbers["law.alpha"]["high"] - numbers["law.alpha"]["low"] < 0.15
    assert holds(numbers["held_out.error"], 0.0)
    assert holds(numbers["best_size.exponent"], BEST_SIZE)


def test_the_best_size_grows_as_planted_at_the_budgets_of_the_table(fitted: Fitted) -> None:
    found = fitted(at_budgets(), "budget=budget")
    assert holds(found["numbers"]["best_size.exponent"], BEST_SIZE)
    assert holds(found["numbers"]["best_data.exponent"], 1 - BEST_SIZE)
    frontier = found["numbers"]["frontier.exponent"]
    assert frontier["value"] == pytest.approx(ALPHA * BETA / (ALPHA + BETA), abs=0.03)
    # FLOPs that are few values are budgets, whatever the column is called.
    grouped = fitted(at_budgets().assign(budget=lambda t: 6 * t["params"] * t["tokens"]), "flops=budget")
    assert grouped["numbers"]["best_size.exponent"]["value"] == pytest.approx(
        found["numbers"]["best_size.exponent"]["value"], abs=1e-9
    )


def test_checkpoints_of_one_run_are_not_independent(fitted: Fitted) -> None:
    """Runs whose levels differ: taken for independent, their checkpoints would give too narrow an interval."""
    points = table(noise=0.0)
    run = points["params"].rank(method="dense").astype(int)
    level = np.random.default_rng(1).normal(0, 0.01, run.max() + 1)
    points = points.assign(loss=points["loss"] * np.exp(level[run]), run=run)
    wide, narrow = (fitted(points, *more)["numbers"]["law.alpha"] for more in (["run=run"], []))
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_seeds_that_are_whole_ladders_are_the_unit(fitted: Fitted) -> None:
    seeds = pd.concat([table(seed=seed).assign(seed=seed) for seed in range(4)], ignore_index=True)
    numbers = fitted(seeds, "seed=seed")["numbers"]
    assert holds(numbers["law.alpha"], ALPHA)
    one_by_one = [fitted(table(seed=seed))["numbers"]["law.alpha"]["value"] for seed in range(4)]
    assert numbers["law.alpha"]["value"] == pytest.approx(np.mean(one_by_one), abs=1e-6)
    reach = 2.353 * np.std(one_by_one, ddof=1) / 2  # Student's t, 3 degrees of freedom
    assert numbers["law.alpha"]["high"] - numbers["law.alpha"]["low"] == pytest.approx(2 * reach, rel=0.01)


def test_losses_that_do_not_flatten_give_ranges_over_e(fitted: Fitted) -> None:
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, 56))
    points = table().assign(loss=lambda t: (A * t["params"] ** -0.1 + B * t["tokens"] ** -0.2) * noise)
    found = fitted(points)["numbers"]
    alpha, pinned = found["law.alpha"], found["law_without_E.alpha"]
    assert holds(pinned, 0.1)
    assert found["law.E"]["status"] == "undetermined"
    assert found["law.E"]["low"] == 0.0
    assert alpha["status"] == "undetermined"
    assert alpha["low"] <= pinned["low"] < pinned["high"] <= alpha["high"]


def test_a_law_that_does_not_extrapolate_is_a_warning(fitted: Fitted) -> None:
    bent = table(noise=0.001).assign(loss=lambda t: t["loss"] * np.where(t["params"] > 4e9, 1.05, 1.0))
    found = fitted(bent)
    error = found["numbers"]["held_out.error"]
    assert error["status"] == "warning"
    assert error["low"] < 0.05 < error["high"]
    assert any("do not extrapolate" in note for note in found["notes"])


def test_variants_are_fitted_each_by_itself(fitted: Fitted) -> None:
    both = pd.concat([table().assign(kind="a"), table(seed=1).assign(kind="b", loss=lambda t: t["loss"] + 1)])
    found = fitted(both, "variant=kind")
    assert "numbers" not in found
    assert holds(found["variants"]["a"]["law.E"], E)
    assert holds(found["variants"]["b"]["law.E"], E + 1)


def test_data_in_proportion_to_size_leaves_a_law_of_size_alone(fitted: Fitted) -> None:
    sizes = np.geomspace(1e7, 1e10, 12)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.001, 12))
    points = pd.DataFrame({"params": sizes, "tokens": 20 * sizes, "loss": (1.5 + 300 * sizes**-0.3) * noise})
    numbers = fitted(points)["numbers"]
    assert holds(numbers["law.alpha"], 0.3)
    assert "law.beta" not in numbers


def test_the_command_writes_a_page_and_numbers_for_programs(fitted: Fitted, tmp_path: Path) -> None:
    path, out = tmp_path / "points.csv", tmp_path / "out"
    points = pd.concat([table().assign(kind="a"), table(seed=1).assign(kind="b")])
    points.to_csv(path, index=False)
    assert COMMAND.main([str(path), *COLUMNS, "variant=kind", f"out={out}"]) == 0
    found = json.loads((out / "fit.json").read_text())
    assert found == fitted(path, "variant=kind")
    for number in found["variants"]["b"].values():
        assert list(number) == ["value", "low", "high", "level", "status", "reason"]
    assert {"index.html", "report.md", "numbers.csv", "foreign_law.png", "isoflop.png"} <= {
        path.name for path in out.iterdir()
    }
    page = (out / "report.md").read_text()
    assert "a: L = 1.8" in page
    assert " nan" not in page


def test_chinchilla_agrees_with_its_replication(fitted: Fitted) -> None:
    """Besiroglu et al. 2024 (arXiv 2404.10102): 240 of 245 points, and standard errors of a bootstrap over them."""
    found = fitted(foreign("chinchilla_epoch.csv"), "size=params", "flops=flops", "drop=5")
    assert (found["rows"], found["runs"]) == (240, 240)
    assert any("5 highest losses" in note for note in found["notes"])
    published = {"E": (1.8172, 0.026), "alpha": (0.3478, 0.0154), "beta": (0.3658, 0.0207)}
    for name, (value, error) in published.items():
        number = found["numbers"][f"law.{name}"]
        assert number["value"] == pytest.approx(value, abs=0.1 * error), name
        assert (number["high"] - number["low"]) / (2 * T90) == pytest.approx(error, rel=0.15), name
    best = {"E": 1.81724, "A": 477.84, "B": 2143.9, "alpha": 0.34731, "beta": 0.36718}
    for name, value in best.items():
        assert found["numbers"][f"law.{name}"]["value"] == pytest.approx(value, rel=1e-3), name
    assert found["numbers"]["best_size.exponent"]["low"] < 0.3658 / (0.3478 + 0.3658)


def test_llama_3_s_best_tokens_grow_as_published(fitted: Fitted) -> None:
    """Llama 3 (arXiv 2407.21783): C^0.537, from the minima of ten budgets."""
    found = fitted(foreign("llama3_isoflop.csv"), "budget=budget", "variant=condition")
    for numbers in found["variants"].values():
        assert numbers["best_data.exponent"]["value"] == pytest.approx(0.537, abs=0.002)
        assert numbers["best_size.exponent"]["value"] == pytest.approx(0.463, abs=0.002)
        assert holds(numbers["best_size.exponent"], 0.463)
        assert holds(numbers["best_data.exponent"], 0.537)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store of another project: parameters and metrics have its own names."""
    uri = f"sqlite:///{tmp_path}/theirs.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("scaling", artifact_location=str(tmp_path))
    for size, group in table().groupby("params"):
        run = client.create_run(experiment).info.run_id
        client.log_param(run, "n_params", size)
        for step, row in enumerate(group.itertuples()):
            client.log_metric(run, "tokens", float(row.tokens), step=step)  # type: ignore[arg-type]
            client.log_metric(run, "eval/loss", float(row.loss), step=step)  # type: ignore[arg-type]
        client.set_terminated(run)
    client.create_run(experiment)
    return uri


def store_fields(uri: str) -> list[str]:
    columns = ["size=params.n_params", "data=metrics.tokens", "loss=metrics.eval/loss"]
    return [f"tracking_uri={uri}", "experiment=scaling", *columns]


def test_another_project_s_store_is_read(store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert COMMAND.main([*store_fields(store), "checkpoints=true", f"out={out}"]) == 0
    found = json.loads((out / "fit.json").read_text())
    assert (found["rows"], found["runs"]) == (56, 8)
    assert found["numbers"]["law.alpha"]["value"] == pytest.approx(ALPHA, abs=0.05)
    assert any("1 of 9 runs have not finished" in note for note in found["notes"])
    assert COMMAND.main([*store_fields(store), f"out={out}"]) == 0
    assert json.loads((out / "fit.json").read_text())["rows"] == 8


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is refused: one sentence, and nothing written."""
    out = tmp_path / "refused"
    assert COMMAND.main([*arguments, f"out={out}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not out.exists()
    (line,) = printed.err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("points", "fields", "sentence"),
    [
        (table(), ["size=parms"], "has no column parms (size=parms): it has params, tokens, loss"),
        (table(), ["data=params"], "size and data are one column of"),
        (table().assign(params=-1.0), [], "row 1: params is -1, and it must be positive"),
        (table().assign(params=1e308), [], "row 1: params is 1e+308, beyond 1e-60 to 1e+60"),
        (table().assign(loss=0.0), [], "row 1: loss is 0, and it must be positive"),
        (table().assign(params=1e9), [], "holds one size (params = 1e+09)"),
        (table().assign(run="a"), ["run=run"], "holds one run"),
        (table().assign(loss=np.nan), [], "has no row with a finite loss"),
        (pd.concat([table(), table()]), [], "row 1 and row 57 are one point (N = 5e+07, D = 1e+09): name the column"),
        (at_budgets().assign(budget=lambda t: 3 * t["budget"]), ["budget=budget"], "6 N D is 0.333 times the budget"),
        (table()[:0], [], "has no rows"),
        (table(), ["drop=55"], "drop=55 leaves nothing to fit"),
        (table(), ["drop=-1"], "drop"),
        (table(), ["level=1.5"], "level"),
    ],
)
def test_tables_that_cannot_be_fitted_are_one_sentence(
    points: pd.DataFrame, fields: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points.to_csv(tmp_path / "points.csv", index=False)
    own = {field.partition("=")[0] for field in fields}
    usual = [field for field in COLUMNS if field.partition("=")[0] not in own]
    assert sentence in refused(tmp_path, capsys, str(tmp_path / "points.csv"), *usual, *fields)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("points.csv", "", "is empty"),
        ("points.csv", "params,tokens,loss\n1e6,1e9,2\n1e7,n/a?,2\n", "row 2: tokens is 'n/a?', which is no number"),
        ("points.csv", "params,tokens,loss\n1e6,,2\n1e7,1e9,2\n", "row 1: tokens is missing"),
        ("points.csv", "params,tokens,loss\n1e6,1e9,2,7\n1e7,1e9,2,7\n", "its rows have more cells than its header"),
        ("points.csv", "params,tokens,loss,loss\n1e6,1e9,2,7\n", "its header has the column loss twice"),
        ("points.xlsx", "x", "is no .csv, .tsv or .parquet file"),
        ("points.parquet", "x", "cannot be read as a table"),
    ],
)
def test_files_that_are_no_tables_are_one_sentence(
    name: str, content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert sentence in refused(tmp_path, capsys, str(tmp_path / name), *COLUMNS)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no file nowhere.csv" in refused(tmp_path, capsys, "nowhere.csv", *COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*COLUMNS], "name one source"),
        (["a.csv", "tracking_uri=x", "experiment=y", *COLUMNS], "name one source"),
        (["tracking_uri=x", *COLUMNS], "tracking_uri=URI and experiment=NAME go together"),
        (["tracking_uri=sqlite:///no.db", "experiment=y", *COLUMNS], "params is no column of a store"),
        (["a.csv", "checkpoints=true", *COLUMNS], "checkpoints=true is for a store"),
    ],
)
def test_sources_that_do_not_go_together_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(tmp_path, capsys, *arguments)


def test_a_store_without_what_is_asked_for_is_one_sentence(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = store_fields(store)
    missing = [*fields[:2], "size=params.width", *fields[3:]]
    assert "has params.width: they have metrics.eval/loss, metrics.tokens, params.n_params" in refused(
        tmp_path, capsys, *missing
    )
    assert "has no experiment other; it has Default, scaling" in refused(
        tmp_path, capsys, fields[0], "experiment=other", *fields[2:]
    )
    nowhere = f"tracking_uri=sqlite:///{tmp_path}/no.db"
    assert "there is no store" in refused(tmp_path, capsys, nowhere, *fields[1:])
    assert not (tmp_path / "no.db").exists()


def test_with_its_own_flops_a_budget_that_does_not_match_is_a_note(fitted: Fitted) -> None:
    points = at_budgets().assign(flops=lambda t: 7 * t["params"] * t["tokens"])
    found = fitted(points, "budget=budget", "flops=flops")
    assert any("flops is 1.17 times the budget" in note for note in found["notes"])
    assert holds(found["numbers"]["best_size.exponent"], BEST_SIZE)
