"""The rules of an evaluation, by name, and how many detections count under each.

- "lvis": LVIS's. The 300 highest scores of an image count; an annotation or a detection without an
  area is none; on federated data only verified categories count.
- "fixed": the same, but 10,000 detections a category over the dataset and any number an image
  ("Evaluating Large-Vocabulary Object Detectors", arXiv 2102.01066).
- "coco": COCO's, those of pycocotools. The 100 highest scores of each category on each image
  count; a crowd takes any number of detections, by the share of them inside it; what has no area
  counts, and ``ignore`` means nothing.
- "default": "lvis" where the images list ``neg_category_ids``, else "coco".
"""

from __future__ import annotations

from dataclasses import dataclass

RULES = ("default", "lvis", "coco", "fixed")
FIXED_PER_CATEGORY = 10_000
LVIS_MAX_DETS, COCO_MAX_DETS = 300, 100
# COCO's average recall is also given for so few detections of a category on an image.
_FEWER = (1, 10)
NO_LIMIT = -1


@dataclass(frozen=True)
class Limits:
    """How many detections count, highest scores first; -1 is no limit.

    Attributes:
        per_image: of an image.
        per_category: of a category over the dataset.
        per_pair: of a category on an image.
    """

    per_image: int = NO_LIMIT
    per_category: int = NO_LIMIT
    per_pair: int = NO_LIMIT


def check_rule(rule: str, max_dets: int | None) -> None:
    """Raise ValueError if there is no such rule or limit."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: it must be one of {', '.join(map(repr, RULES))}.")
    if max_dets is not None and max_dets < 1 and max_dets != NO_LIMIT:
        raise ValueError(f"max_dets={max_dets}: it must be 1 or more, or -1 for no limit.")


def applied_rule(rule: str, coco: bool) -> str:
    """The rule that a dataset is evaluated by: "lvis", "fixed" or "coco".

    Args:
        rule: as asked for.
        coco: whether the ground truth was read by COCO's rules.
    """
    return "coco" if coco else "fixed" if rule == "fixed" else "lvis"


def detection_limits(rule: str, max_dets: int | None = None) -> Limits:
    """The limits under an applied rule.

    Args:
        rule: "lvis", "fixed" or "coco".
        max_dets: detections of an image, or by COCO's rules of a category on an image; None for the
            rule's own number. "fixed" takes no other one.
    """
    if rule == "fixed":
        return Limits(per_category=FIXED_PER_CATEGORY)
    if rule == "coco":
        return Limits(per_pair=COCO_MAX_DETS if max_dets is None else max_dets)
    return Limits(per_image=LVIS_MAX_DETS if max_dets is None else max_dets)


def fewer_detections(limits: Limits) -> tuple[int, ...]:
    """The smaller limits for which COCO's rules give average recall, too."""
    most = limits.per_pair
    return tuple(n for n in _FEWER if most == NO_LIMIT or n < most)
