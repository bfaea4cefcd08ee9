"""Copy-paste: pixels, masks, boxes and occlusion agree; the federated lists stay true."""

import copy

import numpy as np
import pytest
from data_fixtures import annotation, record, rectangle, small_config
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from balms_det.annotations.masks import mask_to_box, mask_to_rle, rle_to_mask, segmentation_to_rle
from balms_det.data.copy_paste import CopyPaste, InstancePool, PasteTransform, Patch
from balms_det.data.mapper import RepeatFactorDatasetMapper

SIZE = (40, 50)  # height, width of every image here
SCARCE, USUAL = 1, 0
RED, GREEN = (255, 0, 0), (0, 255, 0)


def flat(colour):
    return np.broadcast_to(np.array(colour), (*SIZE, 3))


@pytest.fixture(params=["polygon", "rle"])
def records(request, tmp_path):
    """A red image whose scarce instance fills the middle, and a green one with two usual ones."""
    size = SIZE if request.param == "rle" else None
    source = record(
        tmp_path / "red.png", flat(RED), [annotation(SCARCE, (10, 8, 30, 24), size=size)], 1
    )
    target = record(
        tmp_path / "green.png",
        flat(GREEN),
        [
            annotation(USUAL, (0, 0, 20, 40), size=size),
            annotation(USUAL, (20, 0, 50, 40), size=size),
        ],
        2,
        neg_category_ids=[SCARCE + 1, 9],
        not_exhaustive_category_ids=[],
    )
    return [source, target]


def paste(records, seed=0, **options):
    pool = InstancePool(records, [SCARCE])
    np.random.seed(seed)
    return CopyPaste(pool, image_format="RGB", **options)(records[1])


def masks_of(record):
    return [
        rle_to_mask(segmentation_to_rle(a["segmentation"], *SIZE)) for a in record["annotations"]
    ]


@pytest.mark.parametrize("seed", range(8))
def test_every_pixel_belongs_to_the_instance_that_shows_there(records, seed):
    pasted, transform = paste(records, seed, max_instances=3, min_visible=0.0)
    image = transform.apply_image(flat(GREEN).astype(np.uint8))
    red = (image == RED).all(axis=2)
    masks = masks_of(pasted)
    scarce = [a["category_id"] == SCARCE for a in pasted["annotations"]]
    assert red.any()
    # The two green instances tile the image, so every pixel has exactly one owner of its colour.
    assert (np.sum(masks, axis=0) == 1).all()
    assert (np.sum([m for m, s in zip(masks, scarce) if s], axis=0).astype(bool) == red).all()


@pytest.mark.parametrize("seed", range(8))
def test_boxes_fit_the_visible_masks(records, seed):
    pasted, _ = paste(records, seed, max_instances=3)
    for one, mask in zip(pasted["annotations"], masks_of(pasted)):
        assert one["bbox_mode"] == BoxMode.XYXY_ABS
        assert one["bbox"] == mask_to_box(mask)


def test_untouched_instances_keep_their_annotation(records):
    patch = Patch(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool), left=30, top=5)
    copier = CopyPaste(InstancePool(records, [SCARCE]))
    result = copier._compose(records[1], [(patch, records[0]["annotations"][0])])
    left, right, new = result["annotations"]
    assert left is records[1]["annotations"][0]
    assert rle_to_mask(right["segmentation"]).sum() == 30 * 40 - 4
    assert new["category_id"] == SCARCE and new["bbox"] == [30, 5, 32, 7]


def test_source_dicts_are_not_changed(records):
    before = copy.deepcopy(records)
    paste(records, max_instances=3)
    assert records == before


@pytest.mark.parametrize("min_visible, kept", [(0.5, 2), (0.7, 1)])
def test_mostly_covered_instances_are_dropped(records, min_visible, kept):
    # 20 x 16 = 320 of the right instance's 1200 pixels are covered, and 400 of the left one's 800.
    over_left = Patch(np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), bool), left=0, top=0)
    over_right = Patch(np.zeros((16, 20, 3), np.uint8), np.ones((16, 20), bool), left=25, top=0)
    copier = CopyPaste(InstancePool(records, [SCARCE]), min_visible=min_visible)
    pair = [(patch, records[0]["annotations"][0]) for patch in (over_left, over_right)]
    result = copier._compose(records[1], pair)
    assert [a["category_id"] for a in result["annotations"]] == [USUAL] * kept + [SCARCE] * 2


def test_a_patch_hides_the_one_before_it(records):
    below = Patch(np.zeros((10, 10, 3), np.uint8), np.ones((10, 10), bool), left=5, top=5)
    above = Patch(np.ones((10, 10, 3), np.uint8), np.ones((10, 10), bool), left=5, top=5)
    copier = CopyPaste(InstancePool(records, [SCARCE]))
    pair = [(patch, records[0]["annotations"][0]) for patch in (below, above)]
    result = copier._compose(records[1], pair)
    assert [a["category_id"] for a in result["annotations"]].count(SCARCE) == 1
    image = PasteTransform([below, above]).apply_image(np.full((*SIZE, 3), 7, np.uint8))
    assert (image[5:15, 5:15] == 1).all() and (image[20:] == 7).all()


@pytest.mark.parametrize("dataset_ids, kept", [(None, [9]), ({SCARCE: 9}, [SCARCE + 1])])
def test_a_pasted_class_is_no_longer_a_negative(records, dataset_ids, kept):
    pasted, _ = paste(records, dataset_ids=dataset_ids)
    assert pasted["neg_category_ids"] == kept
    assert records[1]["neg_category_ids"] == [SCARCE + 1, 9]


def test_crowds_stay_and_are_never_pasted(records):
    crowd = annotation(SCARCE, (0, 0, 50, 40), iscrowd=1)
    crowd["segmentation"] = {"counts": [0, 2000], "size": list(SIZE)}
    records[1]["annotations"].append(crowd)
    pasted, _ = paste(records, min_visible=0.0)
    assert crowd in pasted["annotations"]
    assert len(InstancePool(records, [SCARCE])) == 1


def test_image_with_an_instance_without_mask_is_left_alone(records):
    del records[1]["annotations"][0]["segmentation"]
    assert paste(records) == (records[1], None)


def test_probability_zero_pastes_nothing(records):
    assert paste(records, prob=0.0) == (records[1], None)


def test_image_without_annotations_can_be_pasted_into(records):
    del records[1]["annotations"]
    pasted, transform = paste(records)
    assert transform is not None and pasted["annotations"][0]["category_id"] == SCARCE


def test_same_seed_same_paste(records):
    first, second = paste(records, 5), paste(records, 5)
    assert first[0] == second[0]
    image = flat(GREEN).astype(np.uint8)
    assert (first[1].apply_image(image) == second[1].apply_image(image)).all()


def test_classes_are_drawn_evenly(records):
    records[0]["annotations"] += [annotation(2, (1, 1, 5, 5)) for _ in range(9)]
    pool = InstancePool(records, [SCARCE, 2])
    np.random.seed(0)
    drawn = [pool.draw()[1]["category_id"] for _ in range(1000)]
    assert len(pool) == 10
    assert 400 < drawn.count(SCARCE) < 600


def test_patch_is_clipped_at_every_border():
    mask = np.ones((6, 6), bool)
    pixels = np.arange(36).reshape(6, 6, 1)
    patch = Patch(pixels, mask, left=-2, top=36).clip(*SIZE)
    assert (patch.left, patch.top, patch.mask.shape) == (0, 36, (4, 4))
    assert patch.pixels[0, 0, 0] == 2
    assert not Patch(pixels, mask, left=50, top=0).clip(*SIZE).mask.any()
    assert not Patch(pixels, mask, left=0, top=-6).clip(*SIZE).mask.any()


def test_nothing_to_paste():
    with pytest.raises(ValueError, match=r"COPY_PASTE\.GROUPS"):
        InstancePool([{"annotations": []}], [SCARCE])


def test_scale_must_be_a_range(records):
    with pytest.raises(ValueError, match=r"COPY_PASTE\.SCALE"):
        paste(records, scale=(1.2, 0.8))


def test_missing_source_image_is_named(records, tmp_path):
    (tmp_path / "red.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"red\.png' \(image_id 1\)"):
        paste(records)


def test_rle_of_another_size_is_refused():
    rle = mask_util.encode(np.zeros((3, 4), np.uint8, order="F"))
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(40, 50\)"):
        segmentation_to_rle(rle, *SIZE)


def test_segmentations_agree():
    mask = np.zeros(SIZE, bool)
    mask[4:9, 3:17] = True
    uncompressed = {"counts": [], "size": list(SIZE)}
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel().astype(int), [0]])))
    uncompressed["counts"] = np.diff([0, *runs.tolist(), mask.size]).tolist()
    for segmentation in (rectangle(3, 4, 17, 9), uncompressed, mask_to_rle(mask)):
        assert (rle_to_mask(segmentation_to_rle(segmentation, *SIZE)) == mask).all()


@pytest.mark.parametrize("mask_on", [True, False])
def test_through_the_mapper(records, mask_on):
    """After resizing, flipping and jitter the red pixels are still the scarce instances' masks."""
    cfg = small_config(MODEL__MASK_ON=mask_on, INPUT__FORMAT="RGB")
    copier = CopyPaste(InstancePool(records, [SCARCE]), image_format="RGB", min_visible=0.0)
    mapper = RepeatFactorDatasetMapper(cfg, is_train=True, copy_paste=copier)
    for repeat in range(1, 8):
        np.random.seed(repeat)
        mapped = mapper({**records[1], "repeat": repeat, "num_repeats": 8})
        image, instances = mapped["image"].float(), mapped["instances"]
        scarce = instances.gt_classes == SCARCE
        assert scarce.any() and "neg_category_ids" in mapped
        if mask_on:
            red = image[0] > image[1]
            mask = instances.gt_masks.tensor[scarce].any(dim=0)
            assert (red & mask).sum() / (red | mask).sum() > 0.85
