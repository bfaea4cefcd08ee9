"""Reading RLEs without drawing them."""

import numpy as np
import pytest
from pycocotools import mask as mask_api

from balms_det.annotations.masks import mask_to_rle, rle_pixels, rle_totals


def random_masks(generator, number):
    for _ in range(number):
        shape = generator.integers(1, 60, 2)
        yield generator.random(shape) < generator.choice([0, 0.02, 0.5, 0.98, 1])


def test_area_and_total_of_masks():
    masks = list(random_masks(np.random.default_rng(0), 5000))
    area, total = rle_pixels([mask_to_rle(mask) for mask in masks])
    assert area.tolist() == [int(mask.sum()) for mask in masks]
    assert total.tolist() == [mask.size for mask in masks]
    assert rle_totals([mask_to_rle(mask) for mask in masks]).tolist() == total.tolist()


def test_a_large_mask():
    mask = np.zeros((5000, 7000), bool)
    mask[1:, 3:] = True
    assert [v.tolist() for v in rle_pixels([mask_to_rle(mask)])] == [[mask.sum()], [mask.size]]
    assert rle_totals([mask_to_rle(mask)]).tolist() == [mask.size]


def test_counts_as_text():
    rle = mask_to_rle(np.eye(9, dtype=bool))
    text = {**rle, "counts": rle["counts"].decode()}
    assert rle_pixels([text])[0].tolist() == [9]


@pytest.mark.parametrize(
    "counts", ["", "e05", "PPPPPP", "~~~", "\x01\x02", "é", "e05?0000000g9", "e05?0000000g8g8"]
)
def test_broken_counts_do_not_add_up_to_the_image(counts):
    good = mask_api.encode(np.asfortranarray(np.eye(20, dtype=np.uint8)))
    area, total = rle_pixels([good, {"size": [20, 20], "counts": counts}, good])
    assert total[1] != 400
    assert total[[0, 2]].tolist() == [400, 400]
    assert area[[0, 2]].tolist() == [20, 20]
    totals = rle_totals([good, {"size": [20, 20], "counts": counts}, good])
    assert totals.tolist() == total.tolist()


def test_totals_of_damaged_counts():
    """One character lost or changed; where no run is negative both ways find the same total."""
    generator = np.random.default_rng(1)
    damaged = []
    for mask in random_masks(generator, 2000):
        counts = bytearray(mask_to_rle(mask)["counts"])
        place = int(generator.integers(len(counts)))
        if generator.random() < 0.5:
            counts[place] = int(generator.integers(48, 112))
        else:
            del counts[place]
        damaged.append({"size": list(mask.shape), "counts": bytes(counts)})
    _, total = rle_pixels(damaged)
    sound = total >= 0
    assert 200 < sound.sum() < 1900
    alone = np.array([rle_totals([mask])[0] for mask in damaged])
    assert alone[sound].tolist() == rle_totals(damaged)[sound].tolist() == total[sound].tolist()


def test_none():
    assert [v.tolist() for v in rle_pixels([])] == [[], []]
    assert rle_totals([]).tolist() == []
