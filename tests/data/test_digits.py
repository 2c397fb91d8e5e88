"""The embedded data and the order in which it is seen."""

from collections import Counter
from collections.abc import Callable

import torch

from lina_lab.config import TrialConfig
from lina_lab.data.modules.digits import DigitsDataModule, digits
from lina_lab.data.order import StepBatches

Tiny = Callable[..., TrialConfig]


def test_the_digits_are_all_there() -> None:
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert set(labels.tolist()) == set(range(10))


def test_the_split_is_fixed_stratified_and_disjoint(tiny: Tiny) -> None:
    one, two = (DigitsDataModule(tiny(seed=seed, data={"val_images": 360})) for seed in (0, 1))
    assert torch.equal(one.val_set.latents, two.val_set.latents)
    assert len(one.train_set) + len(one.val_set) == 1797
    counts = Counter(one.val_set.labels.tolist())
    assert all(34 <= counts[label] <= 38 for label in range(10))
    rows = Counter(tuple(x.flatten().tolist()) for part in (one.train_set, one.val_set) for x in part.latents)
    assert rows == Counter(tuple(x.flatten().tolist()) for x in digits()[0])


def indices(steps: range, seed: int = 0, images: int = 10, batch: int = 4) -> list[int]:
    batches = StepBatches(images=images, batch_size=batch, steps=steps, seed=seed)
    assert len(batches) == len(list(batches))
    return [int(i) for ids in batches for i in ids]


def test_each_pass_sees_every_image_once() -> None:
    seen = indices(range(10))
    assert all(sorted(seen[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))
    assert len({tuple(seen[start : start + 10]) for start in range(0, 40, 10)}) == 4


def test_a_step_sees_the_same_images_wherever_one_starts() -> None:
    whole = indices(range(10))
    assert [*indices(range(3)), *indices(range(3, 7)), *indices(range(7, 10))] == whole


def test_seeds_give_other_orders_and_batches_may_be_larger_than_the_data() -> None:
    assert indices(range(10), seed=1) != indices(range(10))
    counts = Counter(indices(range(2), batch=25))
    assert set(counts.values()) == {5}


def test_epochs_end_with_the_budget(tiny: Tiny) -> None:
    data = DigitsDataModule(tiny(trainer={"max_images": 80, "val_every_images": 48}))
    sizes = []
    for epoch in range(2):
        of_the_epoch = {"current_epoch": epoch, "global_step": 3 * epoch, "global_rank": 0, "world_size": 1}
        data.trainer = type("Trainer", (), {**of_the_epoch, "accumulate_grad_batches": 1})()
        sizes.append([len(latents) for latents, _ in data.train_dataloader()])
    assert sizes == [[16, 16, 16], [16, 16]]
