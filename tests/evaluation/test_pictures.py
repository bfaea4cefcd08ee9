"""The sheet of predictions beside ground truth."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from balms_det.workflows.draw import CELL, COLOURS, HEADER, draw_comparison


def test_masks_appear_where_they_belong_in_the_colour_of_their_group(tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (40, 40), "black").save(tmp_path / "val" / "1.png")
    data = {
        "images": [{"id": 1, "width": 40, "height": 40, "coco_url": "http://x/val/1.png"}],
        "categories": [{"id": 1, "name": "owl", "frequency": "r"}],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 1,
                "bbox": [20, 20, 16, 16],
                "segmentation": [[20, 20, 36, 20, 36, 36, 20, 36]],
            }
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(data))
    rle = mask_api.encode(np.asfortranarray(np.ones((40, 40), np.uint8)))
    rle["counts"] = rle["counts"].decode()
    detection = {"image_id": 1, "category_id": 1, "segmentation": rle}
    columns = {}
    for name, box in {"right": [21, 21, 15, 15], "wrong": [0, 0, 10, 10]}.items():
        columns[name] = tmp_path / f"{name}.json"
        # The second detection is one more than the image has instances: it is not drawn.
        second = {**detection, "bbox": [0, 0, 40, 40], "score": 0.1}
        columns[name].write_text(json.dumps([{**detection, "bbox": box, "score": 0.9}, second]))
    target = tmp_path / "sheet.png"
    draw_comparison(tmp_path / "gt.json", tmp_path, columns, target, num_images=1)
    sheet = np.asarray(Image.open(target)).astype(int)
    assert sheet.shape == (HEADER + CELL, 3 * CELL, 3)
    row = sheet[HEADER + round(CELL * 0.7)]
    filled = 0.45 * np.array(COLOURS["r"])
    np.testing.assert_allclose(row[round(CELL * 0.7)], filled, atol=3)
    np.testing.assert_allclose(row[round(CELL * 1.7)], filled, atol=3)
    np.testing.assert_allclose(row[round(CELL * 2.7)], 0, atol=3)
