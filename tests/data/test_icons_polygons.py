import numpy as np
import pytest
from pycocotools import mask as coco_mask

from balms_det.annotations.polygons import mask_to_polygons


def rasterise(polygons, shape):
    rles = coco_mask.frPyObjects(polygons, *shape)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def disc(size, radius, center=None):
    y, x = np.mgrid[:size, :size]
    cx, cy = center or (size / 2, size / 2)
    return np.hypot(x - cx, y - cy) <= radius


def test_rectangle_is_exact():
    mask = np.zeros((20, 30), bool)
    mask[4:11, 6:25] = True
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 1
    assert (rasterise(polygons, mask.shape) == mask).all()


def test_disc_with_two_holes_stays_one_polygon_with_open_holes():
    mask = disc(64, 28) & ~disc(64, 7, (22, 30)) & ~disc(64, 5, (42, 34))
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 1
    assert (rasterise(polygons, mask.shape) == mask).all()


def test_island_in_a_hole_is_a_polygon_of_its_own():
    mask = (disc(64, 28) & ~disc(64, 18)) | disc(64, 8)
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 2
    assert (rasterise(polygons, mask.shape) == mask).all()


@pytest.mark.parametrize("seed", range(20))
def test_ragged_masks_are_reproduced_without_thinning(seed):
    rng = np.random.default_rng(seed)
    mask = disc(40, 17) & (rng.random((40, 40)) < 0.85)
    result = rasterise(mask_to_polygons(mask, tolerance=0), mask.shape)
    assert (result & mask).sum() / (result | mask).sum() > 0.97


@pytest.mark.parametrize("radius", [3, 8, 15, 30])
def test_thinning_drops_points_and_keeps_the_mask(radius):
    mask = disc(64, radius)
    exact, thin = mask_to_polygons(mask, tolerance=0), mask_to_polygons(mask)
    result = rasterise(thin, mask.shape)
    assert len(thin[0]) <= len(exact[0])
    assert (result & mask).sum() / (result | mask).sum() > 0.99


def test_single_pixel_and_mask_at_the_image_border():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[7, 3:8] = True
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 2
    assert all(len(p) >= 6 for p in polygons)
    assert (rasterise(polygons, mask.shape) == mask).all()


def test_empty_mask_has_no_polygon():
    assert mask_to_polygons(np.zeros((5, 5), bool)) == []
