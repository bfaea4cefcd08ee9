"""What does not fit is said before the first iteration."""

import numpy as np
import pytest
from data_fixtures import small_config

from balms_det.data.class_stats import ClassStats
from balms_det.data.data_checks import check_counts, check_image_files, check_masks

TRIANGLE = [[1, 1, 6, 1, 6, 6]]
RLE = {"size": [20, 20], "counts": b"abc"}


def dicts(*masks, **crowd):
    annotations = [{"category_id": 0, "segmentation": mask, "iscrowd": 0} for mask in masks]
    annotations += [{"category_id": 1, "iscrowd": 1}]
    size = {"height": 20, "width": 20}
    return [
        {"file_name": "a.png", "image_id": 1, "annotations": [], **size},
        {"file_name": "b.png", "image_id": 2, "annotations": annotations, **size},
    ]


def config(mask_on=True, mask_format="polygon"):
    cfg = small_config()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = mask_on, mask_format
    return cfg


def test_what_fits_passes():
    check_masks(config(), "mine", dicts(TRIANGLE, [np.array(TRIANGLE[0])]))
    check_masks(config(mask_format="bitmask"), "mine", dicts(TRIANGLE, RLE, np.zeros((20, 20))))
    check_masks(config(mask_on=False), "mine", dicts(None, RLE))


@pytest.mark.parametrize("mask", [None, [], {}])
def test_objects_without_a_mask_are_counted(mask):
    words = (
        r"mine: 2 of 3 objects have no mask.*annotation 2 of image 2 \('b\.png'\).*MODEL\.MASK_ON"
    )
    with pytest.raises(ValueError, match=words):
        check_masks(config(), "mine", dicts(TRIANGLE, mask, mask))


def test_an_rle_among_polygons_is_named():
    with pytest.raises(
        ValueError, match=r"annotation 2 of image 2.*RLE.*INPUT\.MASK_FORMAT.*bitmask"
    ):
        check_masks(config(), "mine", dicts(TRIANGLE, RLE))


@pytest.mark.parametrize("polygon", [[1, 1, 5, 5], [1e6, 1, -1e6, 2] * 50, [float("nan")] * 6])
def test_outlines_that_cannot_be_drawn_are_named(polygon):
    with pytest.raises(ValueError, match=r"mine: the 'segmentation' of annotation 1 of image 2"):
        check_masks(config(), "mine", dicts([polygon]))


def test_a_class_that_is_counted_and_not_loaded_is_named():
    check_counts("mine", dicts(TRIANGLE), ClassStats([1, 0], [1, 0], 2))
    with pytest.raises(ValueError, match=r"mine: .*counts objects of owl, and none"):
        check_counts("mine", dicts(TRIANGLE), ClassStats([1, 1], [1, 1], 2, ["ant", "owl"]))


def test_missing_images_are_counted(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(500)]
    for path in paths:
        path.touch()
    records = [{"file_name": str(path)} for path in paths] + [{"file_name": "s3://far/a.png"}]
    check_image_files("mine", records)
    paths[77].unlink()
    paths[300].unlink()
    with pytest.raises(FileNotFoundError, match=r"mine: 2 of 500 image files.*77\.png"):
        check_image_files("mine", records)
