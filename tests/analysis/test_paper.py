"""The paper's tables: published numbers next to ours, and a note for every empty cell."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from lina_lab.analysis.load.geneval_results import TASKS
from lina_lab.analysis.load.published import published_metrics
from lina_lab.analysis.paper import COMMAND, PaperConfig
from lina_lab.analysis.report import paper_studies
from lina_lab.analysis.report.paper_tables import tables, write_tables

from benchmarks import report
from benchmarks.report import NAME, ReportBenchConfig, make_store
from lina_lab.config import TrialConfig


def by_name(config: PaperConfig) -> dict[str, pd.DataFrame]:
    return {table.name: table.frame for table in tables(config)}


@pytest.fixture(scope="module")
def nothing_of_ours(tmp_path_factory: pytest.TempPathFactory) -> PaperConfig:
    return PaperConfig(runs=str(tmp_path_factory.mktemp("empty")))


def test_published_counts_are_ours(nothing_of_ours: PaperConfig) -> None:
    """Parameters and operations of the published models, from our own counts."""
    cost = by_name(nothing_of_ours)["cost"]
    assert len(cost) == 9
    for row in cost.to_dict("records"):
        assert row["parameters, M, ours"] == pytest.approx(row["parameters, M, published"], abs=0.06)
    known = cost.dropna(subset=["one attention, GMAC, published"])
    assert list(known["attention"]) == ["softmax", "linear + convolution + KV gate"]
    assert list(known["one attention, GMAC, ours"]) == pytest.approx([128.84901888, 49.99348224], abs=1e-8)
    note = next(table for table in tables(nothing_of_ours) if table.name == "cost").notes[0]
    assert "ours saves 61.2% of softmax's operations; the paper says 61%" in note


def test_published_figures_stand_in_their_cells(nothing_of_ours: PaperConfig) -> None:
    found = by_name(nothing_of_ours)
    scaling = found["scaling"].set_index(["variant", "size"])
    assert scaling.loc[("division", 768), "FID, published"] == pytest.approx(13.1255, abs=1e-4)
    assert scaling.loc[("subtraction", 768), "FID, published"] == pytest.approx(15.8110, abs=1e-4)
    assert pd.isna(scaling.loc[("subtraction", 1536), "FID, published"])
    assert len(scaling) == 12
    gates = found["gates"]
    assert set(gates[gates["size"] == 768]["variant"]) == {
        "none", "kv", "kv_shared", "key", "value", "kv_decoupled", "memory", "output, no convolution"
    }  # fmt: skip
    assert set(found["locality"]["variant"]) == {"none", "depthwise 5"}
    best = found["class_conditional"].iloc[0]
    assert (best["model"], best["fid"], best["parameters, M"]) == ("LINA c2i", 2.18, 1448.2)
    assert found["geneval"].iloc[-1]["LINA t2i 512px, published"] == 0.74


def test_a_note_explains_every_empty_cell(nothing_of_ours: PaperConfig) -> None:
    for table in tables(nothing_of_ours):
        missing = table.frame.isna().any(axis=None) or table.frame.empty
        assert not missing or any("published: " in note or "ours: none, because" in note for note in table.notes)
    placement = next(table for table in tables(nothing_of_ours) if table.name == "placement")
    assert placement.frame.empty
    assert any("the available data has no such runs" in note for note in placement.notes)


def at_the_paper_s_images(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have `make_store` write a study of this name that learned latents of the published runs' shape and classes."""
    small = report._trial

    def trial(variant: tuple[str, str], width: int, config: ReportBenchConfig) -> TrialConfig:
        made = small(variant, width, config)
        model = replace(made.model, latent_channels=16, latent_size=(16, 16), num_classes=1000)
        return replace(made, model=model, data=replace(made.data, name="latents", path="imagenet"))

    monkeypatch.setattr(report, "_trial", trial)
    monkeypatch.setattr(report, "NAME", name)


def test_our_rows_are_next_to_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five widths of ours and three published ones: eight sizes of four variants, and no number in a wrong row."""
    at_the_paper_s_images(monkeypatch, NAME)
    make_store(ReportBenchConfig(cells=40, checkpoints=2, max_images=960), tmp_path)
    config = PaperConfig(runs=str(tmp_path), scaling=NAME, out=str(tmp_path))
    scaling = by_name(config)["scaling"]
    write_tables(config)
    seeds = [row["seeds"] for row in csv.DictReader((tmp_path / "paper/scaling.csv").read_text().splitlines())]
    assert sorted(seeds) == [""] * 12 + ["2"] * 20
    assert "2.0 |" not in (tmp_path / "paper/scaling.md").read_text()
    assert len(scaling) == 4 * 8
    assert (scaling["loss, ours"].notna() ^ scaling["training loss, published"].notna()).all()
    ours = scaling.dropna(subset=["loss, ours"])
    assert set(ours["seeds"]) == {2}
    assert set(ours["size"]) == {16, 32, 48, 64, 96}
    wide = ours.pivot(index="size", columns="variant", values="loss, ours")
    assert (wide["division + convolution"] < wide["division"]).all()
    assert (wide["division"] < wide["subtraction"]).all()


def test_a_study_of_other_images_is_kept_out_of_the_tables(tmp_path: Path) -> None:
    make_store(ReportBenchConfig(cells=40, checkpoints=2, max_images=960), tmp_path)
    found = {table.name: table for table in tables(PaperConfig(runs=str(tmp_path), scaling=NAME, quality=NAME))}
    scaling, quality = found["scaling"], found["class_conditional"]
    assert scaling.frame["loss, ours"].isna().all()
    assert len(scaling.frame) == 12
    said = (
        f"ours: none, because the study {NAME} learned images of 1 x 8 x 8 numbers with 10 classes, and the published "
        "runs 16 x 16 x 16 numbers with 1,000 classes: such losses do not compare"
    )
    assert scaling.notes[0].startswith(said)
    assert quality.notes[0].startswith(said)
    assert set(quality.frame["source"]) == {"published"}


def test_a_study_at_the_paper_s_scale_is_taken_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the small study of the same question, which has the name that was asked for."""
    make_store(ReportBenchConfig(cells=40, checkpoints=2, max_images=960), tmp_path)
    at_the_paper_s_images(monkeypatch, f"{NAME}_paper")
    make_store(ReportBenchConfig(cells=40, checkpoints=2, max_images=960), tmp_path)
    scaling = next(t for t in tables(PaperConfig(runs=str(tmp_path), scaling=NAME)) if t.name == "scaling")
    assert scaling.frame["loss, ours"].notna().sum() == 20
    assert any(f"of the study {NAME}_paper, mean" in note for note in scaling.notes)


def test_a_geneval_file_fills_its_column(tmp_path: Path) -> None:
    path, images = tmp_path / "results.jsonl", []
    for task, prompts in TASKS.items():
        for prompt in range(prompts):
            for image in range(4):
                fields = {"filename": f"{task}{prompt}-{image}.png", "tag": task, "prompt": f"{task} {prompt}"}
                fields |= {"correct": image < 3, "reason": "", "metadata": "{}", "details": "{}"}
                images.append(json.dumps(fields))
    path.write_text("\n".join(images))
    table = by_name(PaperConfig(runs=str(tmp_path), geneval=str(path)))["geneval"]
    assert list(table["ours"]) == pytest.approx([0.75] * 7)
    path.write_text("\n".join(images[:-1]))
    assert COMMAND.main([f"runs={tmp_path}", f"geneval={path}", f"out={tmp_path}"]) == 2


def test_the_tables_are_written_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.main([f"runs={tmp_path}", f"out={tmp_path}"]) == 0
    written = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    names = ("claims", "scaling", "gates", "locality", "class_conditional", "geneval", "cost")
    assert {f"{name}{ending}" for name in names for ending in (".csv", ".md", ".tex")} <= written
    assert not any(name.startswith("placement") for name in written)
    text = (tmp_path / "paper/report.md").read_text()
    assert "–" in text
    assert r"\toprule" in (tmp_path / "paper/scaling.tex").read_text()
    assert (tmp_path / "paper/index.html").exists()
    assert COMMAND.main(["nothing=1"]) == 2
    assert "nothing is not a field" in capsys.readouterr().err


def test_every_claim_is_judged_from_the_numbers_at_hand(nothing_of_ours: PaperConfig) -> None:
    table = tables(nothing_of_ours)[0]
    claims = table.frame.set_index("claim")
    assert set(claims["judgement"]) == {"supported", "contradicted", "cannot be judged"}
    assert (claims[["evidence", "interval, or what is missing", "why"]] != "").all(axis=None)
    attention, image, latency = (claims.iloc[index] for index in range(3))
    assert attention["judgement"] == "supported"
    assert "61.2% fewer" in attention["evidence"]
    assert image["judgement"] == latency["judgement"] == "contradicted"
    assert "1.8% fewer operations at 256 px" in image["evidence"]
    assert "LINA 22.08 s, softmax 20.02 s (+10%)" in latency["evidence"]
    geneval, normalization, convolution, gate = (claims.iloc[index] for index in range(4, 8))
    assert "±0.025" in geneval["interval, or what is missing"]
    assert "FID 15.81 against 13.13 at 768" in normalization["evidence"]
    assert "loss and FID disagree at width 768" in normalization["why"]
    assert convolution["judgement"] == "supported"
    assert gate["judgement"] == "cannot be judged"
    assert "Of 8 claims 2 are supported, 2 contradicted, and 4 cannot be judged" in table.notes[0]


def test_a_claim_follows_the_numbers(nothing_of_ours: PaperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a faster LINA and another saving, the judgements turn."""
    changed = published_metrics().copy()
    linear = (changed["metric"] == "image_latency") & (changed["normalization"] != "softmax")
    changed.loc[linear, "value"] = 10.0
    changed.loc[changed["metric"] == "flops_reduction", "value"] = 0.9
    monkeypatch.setattr(paper_studies, "published_metrics", lambda: changed)
    judged = tables(nothing_of_ours)[0].frame["judgement"]
    assert list(judged[:3]) == ["contradicted", "contradicted", "supported"]


def test_our_studies_stand_in_the_evidence(tmp_path: Path) -> None:
    make_store(ReportBenchConfig(cells=60, checkpoints=2, max_images=960), tmp_path)
    claims = tables(PaperConfig(runs=str(tmp_path), scaling=NAME))[0].frame
    evidence = claims["evidence"].iloc[5]
    assert f"our study {NAME}, subtraction vs. division (no convolution), size 96: +" in evidence
    assert "after correction" in evidence
