"""Detections drawn on their image, with class names, scores and frequency groups.

Colours are frequency groups: red rare, orange common, blue frequent; labels read
"class name (r) 93%". The drawing is Detectron2's ``Visualizer``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from balms_det.evaluation.pictures import COLOURS
from balms_det.trust import plot_label


def frequency_metadata(names: Sequence[str], groups: Sequence[str]) -> Metadata:
    """Metadata with which any Visualizer of Detectron2 shows frequency groups.

    Its ``thing_classes`` carry the group, and dollars that are drawn as such; its ``thing_colors``
    are the group's (``ColorMode.SEGMENTATION`` uses them).

    Args:
        names: K class names.
        groups: K frequency groups: "r", "c" or "f".

    Raises:
        ValueError: they are not equally many.
    """
    if len(names) != len(groups):
        raise ValueError(f"{len(names)} class names do not go with {len(groups)} frequency groups")
    return Metadata(
        thing_classes=[f"{plot_label(name)} ({group})" for name, group in zip(names, groups)],
        thing_colors=[COLOURS[group] for group in groups],
    )


class FrequencyVisualizer(Visualizer):
    """A ``Visualizer`` in the colours of frequency groups, through which the image can be seen.

    Args:
        image: (H, W, 3) uint8, RGB.
        metadata: of :func:`frequency_metadata`.
        scale: size of the drawing over that of the image.
    """

    def __init__(self, image: np.ndarray, metadata: Metadata, scale: float = 1.0):
        super().__init__(image, metadata, scale, ColorMode.SEGMENTATION)

    def overlay_instances(self, *, alpha: float = 0.4, **instances):
        """See ``Visualizer.overlay_instances``; masks are at most 40 % opaque."""
        return super().overlay_instances(alpha=min(alpha, 0.4), **instances)


def draw_detections(
    image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """Draw a model's detections.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: ``output["instances"]`` of a model or a ``DefaultPredictor``, on any device.
        metadata: of :func:`frequency_metadata`.
        scale: size of the drawing over that of the image.

    Returns:
        (scale * H, scale * W, 3) uint8, RGB.
    """
    visualizer = FrequencyVisualizer(image, metadata, scale)
    drawn = visualizer.draw_instance_predictions(instances.to("cpu"), jittering=False)
    return drawn.get_image()
