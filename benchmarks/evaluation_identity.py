"""Are the 13 numbers those of the official package, to the last bit, on a dataset of yours?

    python benchmarks/evaluation_identity.py ANNOTATIONS.json [--seeds 3] [--copies 4]

The annotations themselves, moved, cut, doubled, of another class, empty and with scores that tie,
are taken as results. Boxes and masks are evaluated by both backends, by the fast one image by image
and in any order, and by the official package as it is. Exits with 1 at a difference.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np

from balms_det.annotations.masks import mask_to_box, mask_to_rle, rle_to_mask, segmentation_to_rle
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends.official import import_lvis


def perturbed(truth: dict, copies: int, generator: np.random.Generator) -> list[dict]:
    """Results out of annotations."""
    images = {image["id"]: image for image in truth["images"]}
    category_ids = sorted({annotation["category_id"] for annotation in truth["annotations"]})
    results = []
    for annotation in truth["annotations"]:
        size = [images[annotation["image_id"]][key] for key in ("height", "width")]
        mask = rle_to_mask(segmentation_to_rle(annotation["segmentation"], *size))
        for _ in range(int(generator.integers(0, copies + 1))):
            moved = np.roll(mask, generator.integers(-3, 4, 2), axis=(0, 1))
            moved[: int(generator.integers(0, size[0] // 2))] &= generator.random() < 0.8
            rle = mask_to_rle(moved)
            x0, y0, x1, y1 = mask_to_box(moved) if moved.any() else (0, 0, 0, 0)
            other = int(generator.choice(category_ids))
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if generator.random() < 0.8 else other,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": round(float(generator.random()), 2),
                    "segmentation": {"size": size, "counts": rle["counts"].decode()},
                }
            )
    return [results[n] for n in generator.permutation(len(results))]


def by_image(results: list[dict]) -> list[dict]:
    """As frameworks write them: these are read and matched in one go."""
    return sorted(results, key=lambda result: result["image_id"])


def official(path: str, results: list[dict], iou_type: str) -> dict:
    results = copy.deepcopy(results)
    if iou_type == "segm":
        for result in results:
            del result["bbox"]  # its area would be taken for the mask's
    evaluation = import_lvis().LVISEval(path, results, iou_type)
    evaluation.run()
    return dict(evaluation.get_results())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path, help="LVIS-format json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4, help="results an annotation, at most")
    arguments = parser.parse_args()
    truth = json.loads(arguments.annotations.read_text())
    different = 0
    for seed in range(arguments.seeds):
        results = perturbed(truth, arguments.copies, np.random.default_rng(seed))
        for iou_type in ("bbox", "segm"):
            expected = official(str(arguments.annotations), results, iou_type)
            for backend, order in (("hotcoco", by_image), ("hotcoco", list), ("official", list)):
                own = evaluate_lvis(truth, order(results), iou_type, backend=backend).metrics
                different += own != expected
                verdict = "same bits" if own == expected else f"DIFFERENT: {own} {expected}"
                way = f"{iou_type} {backend}{', by image' if order is by_image else ''}"
                print(f"seed {seed} {way}: AP {own['AP']!r}, {verdict}")
    raise SystemExit(different > 0)


if __name__ == "__main__":
    main()
