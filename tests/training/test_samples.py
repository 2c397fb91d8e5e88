"""The generated images that a cell leaves as numbers, beside held-out ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.data.modules.digits import DigitsDataModule
from lina_lab.records.samples import BLANK, read_sheet
from lina_lab.training.callbacks import sample_grid
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


def test_held_out_images_are_of_the_row_s_class_none_twice_and_blank_where_there_are_no_more(
    tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(sampling={"images_per_class": 5}, data={"val_images": 20})
    assert run_trial(config, tmp_path).problems == ()
    sheet, held_out = read_sheet(tmp_path / "samples.npz"), DigitsDataModule(config).val_set
    latents, condition = held_out[torch.arange(len(held_out))]
    assert sheet.titles == tuple(str(label) for label in range(10))
    assert sheet.images.shape == sheet.real.shape == (10, 5, 8, 8, 1)
    assert sheet.real_counts.min() < 5
    for label in range(10):
        own = latents[condition["label"] == label][:5, 0].numpy()
        assert sheet.real_counts[label] == len(own)
        shown = sheet.real[label, :, :, :, 0]
        assert np.allclose(shown[: len(own)], (1 - own) / 2 * 255, atol=1)
        assert (shown[len(own) :] == BLANK).all()


def test_without_classes_the_only_row_has_the_first_held_out_images(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(model={"num_classes": None}, sampling={"images_per_class": 3, "guidance_scale": 1.0})
    assert run_trial(config, tmp_path).problems == ()
    sheet, held_out = read_sheet(tmp_path / "samples.npz"), DigitsDataModule(config).val_set
    assert (sheet.titles, sheet.real_counts.tolist()) == (("",), [3])
    assert np.allclose(sheet.real[0, :, :, :, 0], (1 - held_out[torch.arange(3)][0][:, 0].numpy()) / 2 * 255, atol=1)


def test_variants_and_seeds_start_from_the_same_noise(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise: list[torch.Tensor] = []
    generate = sample_grid.generate

    def noted(model: Any, sampling: Any, condition: Any, generator: torch.Generator, columns: int) -> torch.Tensor:
        noise.append(generator.get_state())
        return generate(model, sampling, condition, generator, columns)

    monkeypatch.setattr(sample_grid, "generate", noted)
    changes: tuple[dict[str, Any], ...] = ({}, {"seed": 1}, {"model": {"attention": {"conv": "none"}}})
    for number, change in enumerate(changes):
        run_trial(tiny(**change), tmp_path / str(number))
    assert len(noise) == 3
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])


@pytest.mark.parametrize("content", [b"PK\x03\x04 no more", b"text", b""])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"samples\.npz is no sheet of samples"):
        read_sheet(path)
