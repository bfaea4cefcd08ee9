"""Losses that are told more of the RoIs than their class.

Symbols: see :mod:`balms_det.losses.core.base`, and
    D         width of the feature that the classifier reads
    context   tensors whose rows are the RoIs of the batch, by name (:data:`ROI_FIELDS`)
"""

from torch import Tensor

from balms_det.losses.core.base import BoxLoss

#: What is known of a sampled RoI beside its class, by name.
#:   object_ids   (R,) integers: RoIs of the same object, and no others, have the same; background
#:                RoIs have -1
#:   all_classes  (R, K) boolean: every class that the object carries, none on background RoIs
ROI_FIELDS = ("object_ids", "all_classes")


class ContextLoss(BoxLoss):
    """A loss that reads fields of the RoIs, or adds rows of its own to the batch.

    In training the box predictor fills ``context`` with the fields of ``reads`` before the
    loss and empties it afterwards. A loss that is called without context takes every RoI for an
    object of its own with one class.
    """

    #: Which of :data:`ROI_FIELDS` are wanted.
    reads: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.context: dict[str, Tensor] = {}

    def field(self, name: str, gt_classes: Tensor) -> Tensor | None:
        """The field ``name`` of the RoIs whose labels are ``gt_classes``, None where unknown.

        Raises:
            ValueError: the context is of another number of RoIs.
        """
        value = self.context.get(name)
        if value is not None and len(value) != len(gt_classes):
            raise ValueError(
                f"{type(self).__name__} has {name} of {len(value)} RoIs but was called with "
                f"{len(gt_classes)}: set its context again, or to {{}}"
            )
        return value

    def extra_rows(self, features: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor] | None:
        """Features and labels, (M, D) and (M,), to be classified with the batch, or None.

        The loss is then of R + M rows, these last, and so is its mean. They count in the
        classification loss alone, neither in box regression nor in accuracy logs. Called once a
        batch, in training, after ``context`` was set; it may add rows to the context too.

        Args:
            features: (R, D), detached.
            gt_classes: (R,) in [0, K].
        """
        return None
