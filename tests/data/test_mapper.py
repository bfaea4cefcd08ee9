"""The mapper: draws of one image are pairwise different pictures; errors name the image."""

import itertools
import math

import numpy as np
import pytest
import torch
from data_fixtures import annotation, record, small_config
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from balms_det.data.mapper import RepeatFactorDatasetMapper, RepeatJitter


def noise(height=48, width=60):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3))


PICTURES = {
    "noise": noise(),
    "black": np.zeros((48, 60, 3)),
    "white": np.full((48, 60, 3), 255),
    "square grey": np.full((48, 48, 3), 128),
}


def same(first, second):
    return first["image"].shape == second["image"].shape and torch.equal(
        first["image"], second["image"]
    )


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("num_repeats", [2, 40])
def test_draws_of_an_image_are_pairwise_different(tmp_path, picture, num_repeats):
    still = record(tmp_path / "a.png", PICTURES[picture], [annotation(0, (4, 4, 30, 30))])
    mapper = RepeatFactorDatasetMapper(small_config(), is_train=True)  # flips half of the time
    draws = [mapper({**still, "repeat": k, "num_repeats": num_repeats}) for k in range(num_repeats)]
    assert not any(same(a, b) for a, b in itertools.combinations(draws, 2))


def test_detectron2s_mapper_does_repeat_itself(tmp_path):
    """What the jitter is for: standard augmentation alone draws the same picture again."""
    still = record(tmp_path / "a.png", noise(), [annotation(0, (4, 4, 30, 30))])
    mapper = DatasetMapper(small_config(), is_train=True)
    draws = [mapper(still) for _ in range(40)]
    assert any(same(a, b) for a, b in itertools.combinations(draws, 2))


@pytest.mark.parametrize("num_repeats", [3, 256, 257, 2304, 30_000])
def test_jitter_has_a_different_shape_or_brightness_for_every_draw(num_repeats):
    image = np.zeros((20, 33, 3), dtype=np.uint8)
    seen = set()
    for repeat in range(num_repeats):
        transforms = RepeatJitter(repeat, num_repeats).get_transform(image).transforms
        seen.add((transforms[0].new_h, transforms[0].new_w, transforms[1].src_weight))
    assert len(seen) == num_repeats


def test_shapes_differ_whatever_the_size_before():
    """Random resizing cannot undo it: the remainders are set after, not the sizes themselves."""
    shapes = []
    for repeat in range(256):
        grid = RepeatJitter(repeat, 256).grid
        residues = set()
        for side in (40, 47, 64, 101):
            image = np.zeros((side, side + 5, 3), dtype=np.uint8)
            resize = RepeatJitter(repeat, 256).get_transform(image).transforms[0]
            assert side <= resize.new_h < side + grid and side + 5 <= resize.new_w < side + 5 + grid
            residues.add((resize.new_h % grid, resize.new_w % grid))
        assert len(residues) == 1
        shapes.extend(residues)
    assert len(set(shapes)) == 256


@pytest.mark.parametrize("num_repeats", [2, 48 * 48 * 40, 48 * 48 * 255])
def test_brightness_levels_are_apart_at_every_grey_value(num_repeats):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    levels = RepeatJitter(0, num_repeats).levels
    pictures = []
    for k in range(levels):
        transform = RepeatJitter(k, max(num_repeats, levels))._brightness()
        pictures.append((transform.src_weight, transform.apply_image(grey).astype(int)))
    pictures = [picture for _, picture in sorted(pictures, key=lambda pair: pair[0])]
    assert all((above > below).all() for below, above in itertools.pairwise(pictures))


def test_a_draw_that_is_not_repeated_is_detectron2s(tmp_path):
    still = record(tmp_path / "a.png", noise(), [annotation(0, (4, 4, 30, 30))])
    cfg = small_config()
    for carried in ({}, {"repeat": 0, "num_repeats": 1}):
        np.random.seed(3)
        theirs = DatasetMapper(cfg, is_train=True)(still)
        np.random.seed(3)
        ours = RepeatFactorDatasetMapper(cfg, is_train=True)({**still, **carried})
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["instances"].gt_masks.tensor, theirs["instances"].gt_masks.tensor)


def test_boxes_and_masks_follow_the_jitter(tmp_path):
    pixels = np.zeros((48, 60, 3))
    pixels[10:30, 20:44] = 255
    still = record(tmp_path / "a.png", pixels, [annotation(0, (20, 10, 44, 30))])
    mapper = RepeatFactorDatasetMapper(small_config(), is_train=True)
    np.random.seed(0)
    for repeat in range(6):
        mapped = mapper({**still, "repeat": repeat, "num_repeats": 6})
        mask = mapped["instances"].gt_masks.tensor[0]
        shade = mapped["image"][0].float()
        bright = shade > (shade.min() + shade.max()) / 2
        # Polygons are rounded to pixels, which moves an edge by up to one.
        assert (mask & bright).sum() / (mask | bright).sum() > 0.8
        tight = mapped["instances"].gt_masks.get_bounding_boxes().tensor
        assert (tight - mapped["instances"].gt_boxes.tensor).abs().max() <= 2


def test_same_seed_same_example(tmp_path):
    still = record(tmp_path / "a.png", noise(), [annotation(0, (4, 4, 30, 30))])
    mapper = RepeatFactorDatasetMapper(small_config(), is_train=True)
    twins = []
    for _ in range(2):
        np.random.seed(11)
        twins.append(mapper({**still, "repeat": 1, "num_repeats": 3}))
    assert same(*twins)


def test_plain_python_without_a_config(tmp_path):
    still = record(tmp_path / "a.png", noise(), [annotation(0, (4, 4, 30, 30))])
    mapper = RepeatFactorDatasetMapper(
        True, augmentations=[T.RandomFlip()], image_format="RGB", use_instance_mask=False
    )
    mapped = mapper({**still, "repeat": 1, "num_repeats": 2})
    assert mapped["instances"].gt_boxes.tensor.shape == (1, 4)


def test_inference_is_left_alone(tmp_path):
    still = record(tmp_path / "a.png", noise(), [])
    mapped = RepeatFactorDatasetMapper(small_config(), is_train=False)(
        {**still, "repeat": 1, "num_repeats": 2}
    )
    theirs = DatasetMapper(small_config(), is_train=False)(still)
    assert torch.equal(mapped["image"], theirs["image"])


@pytest.mark.parametrize("repeat, num_repeats", [(2, 2), (-1, 3)])
def test_impossible_repeat(repeat, num_repeats):
    with pytest.raises(ValueError, match="repeat must be in"):
        RepeatJitter(repeat, num_repeats)


def test_cells_are_all_reached_once():
    for num_repeats in (2, 300, 1000, 2304):
        grid = RepeatJitter(0, num_repeats).grid
        assert grid == min(max(16, math.ceil(math.sqrt(num_repeats))), 48)


def test_missing_image_is_named(tmp_path):
    gone = record(tmp_path / "gone.png", noise(), [annotation(0, (4, 4, 30, 30))], image_id=77)
    (tmp_path / "gone.png").unlink()
    mapper = RepeatFactorDatasetMapper(small_config(), is_train=True)
    with pytest.raises(FileNotFoundError, match=r"gone\.png' \(image_id 77\).*DATASETS\.FILES"):
        mapper(gone)


def test_broken_image_is_named(tmp_path):
    broken = record(tmp_path / "broken.png", noise(), [], image_id=5)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"broken\.png' \(image_id 5\) cannot be read"):
        RepeatFactorDatasetMapper(small_config(), is_train=True)(broken)
