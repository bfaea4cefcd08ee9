"""The official packages: pycocotools for COCO's rules, ``lvis`` for LVIS's, visiting only the
(image, category) pairs that hold anything.

It is the oracle of the tests and the base of boundary IoU. Nothing of its arithmetic is replaced:
matching, precision and recall are its own methods, called for one category at a time.

The boundary of a mask is its pixels within ``d`` pixels of its contour, ``d`` being 2 % of the
image diagonal; the border of the image belongs to the contour. The 2021 LVIS challenge takes the
smaller of mask IoU and the IoU of the boundaries.

"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy
import numpy as np
from pycocotools import mask as mask_api
from pycocotools.cocoeval import COCOeval

from balms_det.annotations.masks import mask_to_rle, rle_to_mask
from balms_det.evaluation.backends.coco_package import coco_curves
from balms_det.evaluation.detections import Detections, with_area
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.metrics import Curves


class _NonEmptyPairs:
    """Mixed into ``lvis.LVISEval``: same bits, without the empty pairs, a category at a time.

    LVIS has 1,203 categories and an image holds some ten of them, so nearly all pairs are empty.
    """

    def evaluate(self) -> None:
        self.params.img_ids = sorted(set(self.params.img_ids))
        self._prepare()

    def accumulate(self) -> None:
        params, images = self.params, self._images_of_categories()
        num_areas = len(params.area_rng)
        shape = (len(params.iou_thrs), len(params.cat_ids), num_areas)
        recall = -np.ones(shape)
        precision = -np.ones((shape[0], len(params.rec_thrs), *shape[1:]))
        for k, category_id in enumerate(params.cat_ids):
            if images[category_id]:
                self._evaluate_category(category_id, sorted(images[category_id]))
                precision[:, :, k] = self.eval["precision"][:, :, 0]
                recall[:, k] = self.eval["recall"][:, 0]
        self.params = params
        self.eval = {"params": params, "precision": precision, "recall": recall}

    def _images_of_categories(self) -> dict[int, set[int]]:
        images = defaultdict(set)
        for image_id, category_id in (*self._gts, *self._dts):
            images[category_id].add(image_id)
        return images

    def _evaluate_category(self, category_id: int, image_ids: list[int]) -> None:
        own = copy.copy(self.params)
        own.img_ids, own.cat_ids = image_ids, [category_id]
        self.params = own
        self.ious = {(i, category_id): self.compute_iou(i, category_id) for i in image_ids}
        self.eval_imgs = [
            self.evaluate_img(i, category_id, area) for area in own.area_rng for i in image_ids
        ]
        super().accumulate()


class _BoundaryIoU:
    """Mixed in: the smaller of mask IoU and boundary IoU."""

    def compute_iou(self, image_id: int, category_id: int):
        pair = image_id, category_id
        compute = lambda own: super().compute_iou(*pair)  # noqa: E731
        return _smaller_iou(self, compute, pair, self.params.iou_thrs[0])


class _CocoBoundaryIoU(COCOeval):
    """The same for COCO's rules."""

    def computeIoU(self, imgId: int, catId: int):
        pair = imgId, catId
        compute = lambda own: super().computeIoU(*pair)  # noqa: E731
        return _smaller_iou(self, compute, pair, self.params.iouThrs[0])


def _smaller_iou(evaluation, compute: Callable, pair: tuple[int, int], least: float):
    """The smaller of mask IoU and boundary IoU of a category on an image.

    Pairs whose mask IoU is below the lowest threshold cannot match whatever their boundaries are,
    so theirs are not computed.

    Args:
        evaluation: of either package.
        compute: from an evaluation to the mask IoU of this pair.
        pair: image and category.
        least: lowest threshold.
    """
    overlap = compute(evaluation)
    near = np.asarray(overlap) >= least
    if not near.any():
        return overlap
    block = np.ix_(near.any(axis=1), near.any(axis=0))
    # The rows of ``overlap`` are in the order of the scores.
    ranked = sorted(evaluation._dts[pair], key=operator.itemgetter("score"), reverse=True)
    edges = copy.copy(evaluation)
    edges._gts = {pair: _edges(evaluation._gts[pair], near.any(axis=0))}
    edges._dts = {pair: _edges(ranked, near.any(axis=1))}
    overlap[block] = np.minimum(overlap[block], compute(edges))
    return overlap


def _edges(annotations: list[dict], chosen: np.ndarray) -> list[dict]:
    """The chosen annotations, their masks reduced to the boundary."""
    return [
        {**annotation, "segmentation": rle_boundary(annotation["segmentation"])}
        for annotation in itertools.compress(annotations, chosen)
    ]


@functools.cache
def evaluator_class(*mixins: type) -> type:
    """``lvis.LVISEval`` over the non-empty pairs; built late, because ``lvis`` imports OpenCV."""
    return type("NonEmptyLVISEval", (*mixins, _NonEmptyPairs, import_lvis().LVISEval), {})


def evaluate(
    truth: GroundTruth, detections: Detections, iou_type: str, fewer: Sequence[int] = ()
) -> Curves:
    """Precision and recall by the official package's own code.

    Args:
        truth: with masks where they are evaluated; it says by which rules.
        detections: within the limits; by LVIS's rules those without an area are left out here.
        iou_type: "bbox" or "segm".
        fewer: by COCO's rules, smaller limits whose recall is asked for.
    """
    detections = with_area(truth, detections)
    if truth.coco:
        return _run_coco(COCOeval, truth, detections, iou_type, fewer)
    return _run(evaluator_class(), truth, detections, iou_type)


def evaluate_boundary(
    truth: GroundTruth, detections: Detections, iou_type: str, fewer: Sequence[int] = ()
) -> Curves:
    """The same with the smaller of mask IoU and boundary IoU; ``iou_type`` is "segm"."""
    detections = with_area(truth, detections)
    if truth.coco:
        return _run_coco(_CocoBoundaryIoU, truth, detections, iou_type, fewer)
    return _run(evaluator_class(_BoundaryIoU), truth, detections, iou_type)


def _run_coco(
    evaluator: type, truth: GroundTruth, detections: Detections, iou_type: str, fewer: Sequence[int]
) -> Curves:
    instances, found = _instances(truth), _detections(detections)
    images = [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(truth.sizes)]
    return coco_curves(images, _categories(truth), instances, found, iou_type, fewer, evaluator)


def _run(evaluator: type, truth: GroundTruth, detections: Detections, iou_type: str) -> Curves:
    lvis = import_lvis()
    shared = {"images": _images(truth), "categories": _categories(truth)}
    evaluation = evaluator(
        _indexed(lvis.LVIS, {**shared, "annotations": _instances(truth)}),
        _indexed(lvis.LVISResults, {**shared, "annotations": _detections(detections)}),
        iou_type,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    everything = np.arange(len(truth.category_ids))
    counts = np.bincount(detections.category, minlength=len(everything))
    return Curves(everything, evaluation.eval["precision"], evaluation.eval["recall"], counts)


def _indexed(dataset_class: type, content: dict):
    """A ``lvis.LVIS`` of loaded content; its constructors read files or copy everything."""
    dataset = dataset_class.__new__(dataset_class)
    dataset.logger = logging.getLogger("lvis.lvis")
    dataset.dataset = content
    dataset._create_index()
    return dataset


def _images(truth: GroundTruth) -> list[dict]:
    everything = range(len(truth.category_ids))
    return [
        {
            "id": n,
            "height": height,
            "width": width,
            "neg_category_ids": truth.negative[n] if truth.federated else everything,
            "not_exhaustive_category_ids": truth.not_exhaustive[n],
        }
        for n, (height, width) in enumerate(truth.sizes)
    ]


def _categories(truth: GroundTruth) -> list[dict]:
    # Groups are averaged elsewhere; the package only wants to see a label.
    return [{"id": k, "frequency": "f"} for k in range(len(truth.category_ids))]


def _instances(truth: GroundTruth) -> list[dict]:
    """Numbered from 1: an annotation with id 0 can never match in the package."""
    instances = _dicts(truth, truth.rles)
    for instance, ignore, crowd in zip(instances, truth.ignore.tolist(), truth.crowd.tolist()):
        instance |= {"ignore": int(ignore), "iscrowd": int(crowd)}
    return instances


def _detections(detections: Detections) -> list[dict]:
    annotations = _dicts(detections, detections.masks)
    for annotation, score in zip(annotations, detections.score.tolist()):
        annotation["score"] = score
    return annotations


def _dicts(columns: GroundTruth | Detections, masks: list[dict] | None) -> list[dict]:
    rows = zip(
        columns.image.tolist(),
        columns.category.tolist(),
        itertools.repeat(None) if columns.box is None else columns.box.tolist(),
        columns.area.tolist(),
    )
    masks = itertools.repeat(None) if masks is None else masks
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "segmentation": mask,
        }
        for number, ((image, category, box, area), mask) in enumerate(zip(rows, masks), start=1)
    ]


class _NumpyWithFloat:
    """numpy as ``lvis`` 0.5.3 knew it: ``np.float`` was an alias of ``float`` until numpy 1.24."""

    float = float

    def __getattr__(self, name):
        return getattr(numpy, name)


def import_lvis():
    """Import ``lvis`` so that its evaluation runs on numpy 1.24 and newer.

    Only the name ``np`` inside the module ``lvis.eval`` is replaced.

    Raises:
        ModuleNotFoundError: the package, or the OpenCV that it imports, is missing.
    """
    try:
        import lvis
        import lvis.eval
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LVIS evaluation needs the module {error.name!r}. Install the official package without"
            " its GUI build of OpenCV:\n"
            "    pip install --no-deps lvis==0.5.3 && pip install opencv-python-headless",
            name=error.name,
        ) from error
    if not hasattr(numpy, "float"):
        lvis.eval.np = _NumpyWithFloat()
    return lvis


DILATION = 0.02


def boundary_width(height: int, width: int, dilation: float = DILATION) -> int:
    """``d`` in pixels, at least 1."""
    return max(1, round(dilation * math.hypot(height, width)))


def rle_boundary(rle: dict, dilation: float = DILATION) -> dict:
    """The boundary of a mask, as a compressed RLE of the same size.

    Args:
        rle: compressed RLE.
        dilation: ``d`` as a share of the image diagonal.
    """
    x, y, columns, rows = (int(value) for value in mask_api.toBbox(rle))
    mask = rle_to_mask(rle)
    inside = mask[y : y + rows, x : x + columns]  # a view: what is cut away is all background
    inside &= ~_eroded(inside, boundary_width(*rle["size"], dilation))
    return mask_to_rle(mask)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The pixels whose square of 2 * steps + 1 pixels a side lies in the mask, (H, W) bool.

    It is ``steps`` erosions with a 3 x 3 square, background outside. A square is full if the number
    of its pixels is; the numbers come from running sums, one axis after the other.
    """
    side = 2 * steps + 1
    for _ in range(2):
        counts = np.cumsum(np.pad(mask, ((steps + 1, steps), (0, 0))), axis=0, dtype=np.int32)
        mask = (counts[side:] - counts[:-side] == side).T
    return mask
