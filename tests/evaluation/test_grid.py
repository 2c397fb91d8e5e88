"""Images side by side in one picture."""

import numpy as np

from lina_lab.evaluation.grid import FRAME, tile


def test_images_lie_row_by_row_and_the_rest_has_the_frame_s_shade() -> None:
    images = np.stack([np.full((2, 3, 3), 10 * (number + 1), np.uint8) for number in range(3)])
    sheet = tile(images, 2)
    assert sheet.shape == (2 * 3, 2 * 4, 3)
    assert sheet[:, :, 0].tolist() == [
        [10, 10, 10, FRAME, 20, 20, 20, FRAME],
        [10, 10, 10, FRAME, 20, 20, 20, FRAME],
        [FRAME] * 8,
        [30, 30, 30, FRAME, FRAME, FRAME, FRAME, FRAME],
        [30, 30, 30, FRAME, FRAME, FRAME, FRAME, FRAME],
        [FRAME] * 8,
    ]


def test_a_margin_may_be_on_all_sides() -> None:
    sheet = tile(np.zeros((2, 1, 1, 3), np.uint8), 2, margin=(1, 1))
    assert sheet[:, :, 0].tolist() == [[FRAME] * 6, [FRAME, 0, FRAME, FRAME, 0, FRAME], [FRAME] * 6]
