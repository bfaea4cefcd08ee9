"""Which detection finds which instance."""

from types import SimpleNamespace

import numpy as np
import pytest

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results.read import read_detections
from balms_det.report.matching import KEPT, confusion_cells, match

CAT, OWL, BEE, ANT = 10, 20, 30, 40  # ids; their ranks are 0 to 3
LEFT, RIGHT, NOWHERE = [0, 0, 10, 10], [20, 0, 10, 10], [0, 40, 10, 10]


def truth_of(boxes, federated=True, **image):
    """One image; ``boxes`` are (category id, box) or (category id, box, more keys)."""
    fields = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if federated else {}
    annotations = []
    for n, (category, box, *more) in enumerate(boxes):
        annotation = {"id": n + 1, "image_id": 1, "category_id": category, "bbox": box}
        annotations.append({**annotation, "area": box[2] * box[3], **dict(*more)})
    content = {
        "images": [{"id": 1, "width": 50, "height": 50, **fields, **image}],
        "categories": [{"id": c, "name": str(c), "frequency": "f"} for c in (CAT, OWL, BEE, ANT)],
        "annotations": annotations,
    }
    return read_ground_truth(content, masks=False)


def matches_of(truth, found):
    """``found``: (category id, box, score)."""
    keys = ("category_id", "bbox", "score")
    results = [{"image_id": 1, **dict(zip(keys, entry))} for entry in found]
    detections = read_detections(results, truth, "bbox")
    return detections, match(truth, detections)


def test_the_higher_score_takes_the_instance_and_the_second_is_wrong():
    truth = truth_of([(CAT, LEFT)])
    _, matches = matches_of(truth, [(CAT, [1, 0, 10, 10], 0.5), (CAT, [2, 0, 10, 10], 0.9)])
    assert matches.truth_of.tolist() == [-1, 0]
    assert matches.found_by.tolist() == [1]
    assert matches.wrong.tolist() == [True, False]
    assert matches.nearest.tolist() == [0, 0]
    assert matches.overlap.tolist() == pytest.approx([90 / 110, 80 / 120])


def test_of_equal_scores_the_earlier_comes_first():
    truth = truth_of([(CAT, LEFT)])
    shorter = [*LEFT[:3], LEFT[3] - 1]
    _, matches = matches_of(truth, [(CAT, shorter, 0.5), (CAT, LEFT, 0.5)])
    assert matches.truth_of.tolist() == [0, -1]


def test_a_detection_takes_the_free_instance_that_it_overlaps_most():
    truth = truth_of([(CAT, [0, 0, 10, 10]), (CAT, [2, 0, 10, 10])])
    found = [(CAT, [2, 0, 10, 10], 0.9), (CAT, [2, 0, 10, 10], 0.8)]
    _, matches = matches_of(truth, found)
    assert matches.truth_of.tolist() == [1, 0]


def test_below_half_overlap_nothing_matches():
    truth = truth_of([(CAT, [0, 0, 10, 10])])
    _, matches = matches_of(truth, [(CAT, [0, 0, 10, 4.9], 0.9)])
    assert matches.found_by.tolist() == [-1]
    assert matches.nearest.tolist() == [-1]
    assert matches.overlap.tolist() == [0]
    assert matches.wrong.all()


def test_an_instance_goes_to_the_best_detection_of_any_class():
    truth = truth_of([(CAT, LEFT), (OWL, RIGHT)])
    found = [(OWL, LEFT, 0.9), (CAT, LEFT, 0.8), (BEE, NOWHERE, 0.7)]
    detections, matches = matches_of(truth, found)
    assert matches.taken_by.tolist() == [0, -1]
    assert matches.found_by.tolist() == [1, -1]
    assert confusion_cells(truth, detections, matches) == [(0, 1, 1), (1, 4, 1)]


def test_only_verified_classes_can_be_wrong():
    truth = truth_of([(CAT, LEFT)], neg_category_ids=[OWL], not_exhaustive_category_ids=[CAT])
    found = [(c, NOWHERE, 0.9) for c in (CAT, OWL, BEE)]
    _, matches = matches_of(truth, found)
    assert matches.wrong.tolist() == [False, True, False]


def test_in_coco_format_every_class_is_verified_and_crowds_swallow_detections():
    crowd = (CAT, [0, 0, 40, 40], {"iscrowd": 1})
    truth = truth_of([crowd, (OWL, [0, 45, 5, 5])], federated=False)
    found = [(CAT, LEFT, 0.9), (CAT, [42, 42, 5, 5], 0.8), (BEE, LEFT, 0.7)]
    detections, matches = matches_of(truth, found)
    assert matches.wrong.tolist() == [False, True, True]
    assert matches.found_by.tolist() == [-1, -1]
    assert confusion_cells(truth, detections, matches) == [(1, 4, 1)]


def test_an_image_without_instances_has_only_false_positives():
    truth = truth_of([], neg_category_ids=[CAT])
    detections, matches = matches_of(truth, [(CAT, LEFT, 0.9), (OWL, LEFT, 0.9)])
    assert matches.wrong.tolist() == [True, False]
    assert confusion_cells(truth, detections, matches) == []


def test_the_cells_are_limited_to_the_largest_and_right_ones_stay():
    size = 3 * KEPT
    rows, columns = np.divmod(np.arange(size * size), size)
    often = (rows == 7) & (columns == size - 1)  # last of its row, and of many in its column
    rows, columns = (np.append(side, [side[often]] * 3) for side in (rows, columns))
    truth = SimpleNamespace(
        category_ids=range(size), category=rows, ignore=np.zeros(len(rows), bool)
    )
    detections = Detections(None, columns, np.ones(len(columns)), None, None)
    matches = SimpleNamespace(taken_by=np.arange(len(columns)))
    cells = confusion_cells(truth, detections, matches)
    assert {(c, c, 1) for c in range(size)} <= set(cells)
    assert (7, size - 1, 4) in cells
    assert KEPT * size < len(cells) <= (2 * KEPT + 1) * size
