"""Generated images side by side: where each variant's are in the figure, and where they are read from."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.cells import SAMPLED
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.load.samples import MAX_VARIANTS, CellSheet, Samples, read_samples
from lina_lab.analysis.report.samples_figure import REAL, block, composed, samples_figures
from mlflow import MlflowClient

from lina_lab.records.samples import SampleSheet

SIDE = 8


def sheet(shade: int, *, classes: int = 10, samples: int = 3, channels: int = 1, real: int = 250) -> SampleSheet:
    """Image i of class c has the shade shade + 10 i + c, its held-out image the shade `real`."""
    shape = (classes, samples, SIDE, SIDE, channels)
    shades = shade + 10 * np.arange(samples)[None, :] + np.arange(classes)[:, None]
    images = np.broadcast_to(shades[..., None, None, None], shape).astype(np.uint8)
    return SampleSheet(
        images=images,
        real=np.full(shape, real, dtype=np.uint8),
        real_counts=np.full(classes, samples),
        titles=tuple(map(str, range(classes))),
    )


def cell(variant: str, own: SampleSheet, *, task: str = "generation", data: str = "mnist5k") -> CellSheet:
    return CellSheet(variant=variant, size=32, seed=0, cell=variant, task=task, data=data, sheet=own)


def test_each_variant_s_images_are_at_its_label_class_by_class_and_held_out_ones_below() -> None:
    picture, centers = composed([cell("first", sheet(0)), cell("second", sheet(100))])
    assert len(centers) == 3
    for center, shade in zip(centers, (0, 100), strict=False):
        for sample in range(3):
            for number in range(10):
                # Three rows of images around the label.
                y = round(center) + (sample - 1) * (SIDE + 1)
                x = number * (SIDE + 1) + SIDE // 2
                assert (picture[y, x] == shade + 10 * sample + number).all()
    assert (picture[round(centers[2]), SIDE // 2 :: SIDE + 1] == 250).all()


def test_a_model_without_classes_has_its_images_side_by_side() -> None:
    sheets = block(sheet(0, classes=1, samples=8, channels=3).images, rows=3)
    assert sheets.shape == (SIDE + 2, 8 * (SIDE + 1) + 1, 3)
    assert [int(sheets[4, 4 + (SIDE + 1) * n, 0]) for n in range(8)] == [10 * n for n in range(8)]


def test_tasks_have_a_figure_each_with_its_own_variants(planted: Callable[..., StudyRuns]) -> None:
    cells = (cell("a", sheet(0)), cell("b", sheet(50)), cell("c", sheet(100), task="diffusion"))
    runs = replace(planted(lambda *_: 0.0), samples=Samples(sheets=cells))
    figures = samples_figures(runs)
    assert [list(numbers["variant"]) for _, numbers in figures.values()] == [["a", "b", REAL], ["c", REAL]]
    assert list(figures) == ["samples", "samples-2"]
    labels = [text.get_text() for text in figures["samples"][0].axes[0].get_yticklabels()]
    assert labels == ["a", "b", REAL]
    below = [figure.axes[0].get_xlabel() for figure, _ in figures.values()]
    assert below[1].startswith("diffusion, mnist5k, size 32, seed 0")
    plt.close("all")


@pytest.mark.parametrize(("data", "shown"), [("emoji", True), ("shapes", False)])
def test_the_licence_s_line_stands_where_the_licence_asks_for_it(
    planted: Callable[..., StudyRuns], data: str, shown: bool
) -> None:
    runs = replace(planted(lambda *_: 0.0), samples=Samples(sheets=(cell("a", sheet(0), data=data),)))
    ((figure, _),) = samples_figures(runs).values()
    assert ("licence" in figure.axes[0].get_xlabel()) == shown
    plt.close("all")


def cells_of(client: MlflowClient, experiment: str, variants: int, tmp_path: Path, without: int = 0) -> pd.DataFrame:
    """Cells of a store, each with its images as an artifact; the last `without` have none."""
    rows = []
    for number in range(variants):
        run = client.create_run(experiment).info.run_id
        if number < variants - without:
            sheet(number).write(tmp_path / "samples.npz")
            client.log_artifact(run, str(tmp_path / "samples.npz"))
        for size in (16, 32):
            rows.append({"run": run if size == 32 else "small", "cell": f"c{number}", "variant": f"v{number}"})
            rows[-1] |= {"size": size, "parameters": size**2, "seed": 0, SAMPLED: "generation", "data_name": "digits"}
    return pd.DataFrame(rows)


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, str]:
    folder = tmp_path / "runs"
    folder.mkdir()
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return folder, client.create_experiment("planted", (folder / "mlartifacts").as_uri())


def read(folder: Path, cells: pd.DataFrame) -> Samples:
    database = folder / "mlflow.db"
    variants = list(cells["variant"].unique())
    return read_samples(f"sqlite:///{database}", database, cells, variants, "planted")


def test_images_are_read_of_the_largest_size_and_a_cell_without_them_is_named(
    store: tuple[Path, str], tmp_path: Path
) -> None:
    folder, experiment = store
    found = read(folder, cells_of(MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), experiment, 3, tmp_path, 1))
    assert [(each.variant, each.size, int(each.sheet.images[0, 0, 0, 0, 0])) for each in found.sheets] == [
        ("v0", 32, 0),
        ("v1", 32, 1),
    ]
    (sentence,) = found.missing
    assert sentence.endswith("so not shown: v2.")


def test_images_of_a_moved_store_and_of_a_cell_s_folder_are_found(store: tuple[Path, str], tmp_path: Path) -> None:
    folder, experiment = store
    cells = cells_of(MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), experiment, 2, tmp_path, 1)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert [each.variant for each in read(moved, cells).sheets] == ["v0"]
    (moved / "planted/c1").mkdir(parents=True)
    sheet(77).write(moved / "planted/c1/samples.npz")
    shutil.rmtree(moved / "mlartifacts")
    (found,) = read(moved, cells).sheets
    assert (found.variant, int(found.sheet.images[0, 0, 0, 0, 0])) == ("v1", 77)


def test_of_many_variants_the_first_are_shown_and_it_is_said(store: tuple[Path, str], tmp_path: Path) -> None:
    folder, experiment = store
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = read(folder, cells_of(client, experiment, MAX_VARIANTS + 2, tmp_path))
    assert len(found.sheets) == MAX_VARIANTS
    assert found.missing == (
        "Generated images are shown of the first 12 of 14 variants; the others are in their cells' folders.",
    )
