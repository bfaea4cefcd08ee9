"""Recording every region of an image, for evaluation.

Symbols: see :mod:`balms_det.features.manifest`; ``R`` RoIs of an image.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from balms_det.features.manifest import FEATURES, LAST_BOXES, OFFSETS, PROPOSALS, SIZES, column
from balms_det.features.record import Recorded, classifier_inputs
from balms_det.modeling.calibration import box_predictors
from balms_det.utils.patching import replaced


class RegionRecorder:
    """Records all regions of test examples; a context manager.

    Inside, nothing passes the score threshold, so neither suppression nor masks are computed.

    Args:
        model: a ``GeneralizedRCNN`` with box predictors of Detectron2 or balms_det.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.predictors = box_predictors(model)
        self._stack = contextlib.ExitStack()
        self._last: dict[str, Tensor] = {}

    def __enter__(self) -> RegionRecorder:
        self.model.eval()
        enter = self._stack.enter_context
        enter(torch.no_grad())
        for predictor in self.predictors:
            enter(replaced(predictor, test_score_thresh=math.inf))
        last = self.predictors[-1]
        enter(replaced(last, predict_boxes=self._note(last.predict_boxes)))
        self._features = enter(classifier_inputs(self.predictors))
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def _note(self, predict_boxes):
        def noted(predictions, proposals):
            boxes = predict_boxes(predictions, proposals)
            # Boxes of every class would take many times the room of the features, and follow from
            # these and the proposals.
            if boxes[0].shape[1] == 4:
                self._last = {LAST_BOXES: boxes[0].cpu()}
            else:
                self._last = {PROPOSALS: proposals[0].proposal_boxes.tensor.cpu()}
            return boxes

        return noted

    def __call__(self, example: dict, seed: int = 0) -> Recorded:
        """Record one example, with ``image``, ``height`` and ``width``. Nothing is random here."""
        (output,) = self.model.inference([example], do_postprocess=False)
        columns = {column(s, FEATURES): read.cpu() for s, read in enumerate(self._features)}
        columns.update(self._last)
        columns[OFFSETS] = torch.tensor([len(columns[column(0, FEATURES)])])
        sizes = [example["height"], example["width"], *output.image_size]
        columns[SIZES] = torch.tensor([sizes], dtype=torch.int32)
        return Recorded(columns, [(0.0, 0.0)] * len(self.predictors))


def merge_regions(columns: dict[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """The columns of a shard for evaluation, of those of its images."""
    merged = {name: torch.cat(list(parts)) for name, parts in columns.items()}
    merged[OFFSETS] = torch.nn.functional.pad(merged[OFFSETS].cumsum(0), (1, 0))
    return merged
