"""A batch with every structure of Detectron2, to a file of plain values and back."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from balms_det.engine.step_watch import load_batch, save_batch


def record():
    instances = Instances((6, 8))
    instances.gt_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
    instances.gt_classes = torch.tensor([3])
    instances.gt_masks = PolygonMasks([[np.array([1.0, 1, 4, 1, 4, 4])]])
    instances.gt_bits = BitMasks(torch.ones(1, 6, 8, dtype=torch.bool))
    instances.gt_keypoints = Keypoints(torch.ones(1, 2, 3))
    return {
        "image": torch.arange(48, dtype=torch.uint8).reshape(1, 6, 8),
        "instances": instances,
        "image_id": np.int64(7),
        "file_name": "a.jpg",
        "weights": np.arange(3.0),
        "size": (6, 8),
        "extra": {"none": None, "flag": True, "object": object},
    }


def test_everything_comes_back(tmp_path):
    save_batch(tmp_path / "a.pth", [[record()], []], iteration=3, losses={"loss_cls": float("nan")})
    torch.load(tmp_path / "a.pth", weights_only=True)
    saved = load_batch(tmp_path / "a.pth")
    assert saved["iteration"] == 3 and np.isnan(saved["losses"]["loss_cls"])
    (loaded,), empty = saved["inputs"]
    expected = record()
    assert empty == [] and loaded["image_id"] == 7 and loaded["file_name"] == "a.jpg"
    assert torch.equal(loaded["image"], expected["image"])
    assert loaded["weights"].tolist() == [0, 1, 2] and loaded["size"] == [6, 8]
    assert loaded["extra"] == {"none": None, "flag": True, "object": "<class 'object'>"}
    mine, its = loaded["instances"], expected["instances"]
    assert mine.image_size == (6, 8) and mine.get_fields().keys() == its.get_fields().keys()
    for name in ("gt_boxes", "gt_bits", "gt_keypoints"):
        assert type(mine.get(name)) is type(its.get(name))
        assert torch.equal(mine.get(name).tensor, its.get(name).tensor)
    np.testing.assert_array_equal(mine.gt_masks.polygons[0][0], its.gt_masks.polygons[0][0])


def test_tensors_on_file_do_not_carry_what_they_are_a_part_of(tmp_path):
    save_batch(tmp_path / "a.pth", [[{"image": torch.zeros(1000, 1000)[:2, :2]}]])
    assert (tmp_path / "a.pth").stat().st_size < 10_000
