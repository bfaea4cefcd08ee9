"""Every config key that balms_det adds to Detectron2's, and nothing else."""

from detectron2.config import CfgNode as CN


def add_balms_config(cfg: CN) -> None:
    """Add balms_det's keys, with their defaults, to a Detectron2 config in place.

    Call it between ``get_cfg()`` and ``merge_from_file()``. The defaults change nothing: the box
    classifier is trained with plain softmax cross-entropy until ``CLS_LOSS.NAME`` says otherwise.
    """
    _add_loss(cfg)
    _add_calibration(cfg)
    _add_data(cfg)
    _add_decoupled_training(cfg)
    _add_meta(cfg)
    _add_non_finite(cfg)
    _add_cached_training(cfg)
    _add_evaluation(cfg)
    _add_authors_keys(cfg)


def _add_loss(cfg: CN) -> None:
    # The box-classification loss: any name in balms_det.losses.BOX_LOSS_REGISTRY.
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS = CN()
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxLoss"
    # Its keyword arguments in upper case, for example `TAU: 1.0`. A key that the loss does not
    # take is an error that lists the ones it takes.
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS = CN(new_allowed=True)


def _add_calibration(cfg: CN) -> None:
    # Calibration of the scores at test time: any name in
    # balms_det.modeling.calibration.CALIBRATION_REGISTRY, or empty for none.
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION = CN()
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = ""
    # Its keyword arguments in upper case, for example `GAMMA: 0.6`.
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.ARGS = CN(new_allowed=True)


def _add_data(cfg: CN) -> None:
    # Datasets to register from files, without Python: rows of
    # [name, annotation json (LVIS or COCO format), image root].
    cfg.DATASETS.FILES = []
    # Where class counts come from: a registered dataset, an annotation json or a checkpoint of
    # balms_det. Its classes may be in any order; they are matched by name.
    # Empty: the datasets of DATASETS.TRAIN; where there are none, the checkpoint MODEL.WEIGHTS.
    cfg.DATASETS.CLASS_COUNTS = ""

    # Paste masked instances of scarce classes into images that a sampler repeats.
    cfg.INPUT.COPY_PASTE = CN()
    cfg.INPUT.COPY_PASTE.ENABLED = False
    # Chance that a repeat of an image gets pasted instances, and how many at most.
    cfg.INPUT.COPY_PASTE.PROB = 1.0
    cfg.INPUT.COPY_PASTE.MAX_INSTANCES = 2
    # Frequency groups whose instances are pasted: "r" (rare), "c" (common), "f" (frequent).
    cfg.INPUT.COPY_PASTE.GROUPS = ["r"]
    # Range of the factor that a pasted instance is resized by.
    cfg.INPUT.COPY_PASTE.SCALE = [0.8, 1.25]
    # An instance that keeps less than this share of its visible area under a pasted one is dropped.
    cfg.INPUT.COPY_PASTE.MIN_VISIBLE = 0.2


def _add_decoupled_training(cfg: CN) -> None:
    # Stage 2 of decoupled training: freeze all parameters but the named ones.
    cfg.MODEL.DECOUPLED = CN()
    cfg.MODEL.DECOUPLED.ENABLED = False
    # A parameter trains when one of these is a dot-separated part of its name.
    cfg.MODEL.DECOUPLED.TRAIN_ONLY = ["cls_score"]


def _add_meta(cfg: CN) -> None:
    # Meta learning (BALMS): any name in balms_det.meta.META_LEARNER_REGISTRY; empty for none.
    cfg.META = CN()
    cfg.META.NAME = ""
    # The learner's keyword arguments in upper case.
    cfg.META.ARGS = CN(new_allowed=True)
    # The meta loss: "paper" (the loss without its adjustment for the long tail) or "reference"
    # (the training loss itself, as in the authors' code).
    cfg.META.LOSS = "paper"
    # The learner's Adam: the paper has 1e-3 for the reweighter and 1e-2 for the sampler, the
    # authors' code 1e-2.
    cfg.META.LR = 0.001
    cfg.META.BETAS = (0.9, 0.999)
    # Where meta batches are drawn from: registered datasets with the training set's classes.
    # Empty: the training set itself.
    cfg.META.DATASETS = ()
    # Images of a meta batch over all ranks; 0: as SOLVER.IMS_PER_BATCH.
    cfg.META.IMS_PER_BATCH = 0
    # The sampler of the meta set: any name in balms_det.data.samplers.SAMPLER_REGISTRY.
    cfg.META.SAMPLER = "ClassBalancedTrainingSampler"
    # Iterations between two updates of the rates by which DATALOADER.SAMPLER_TRAIN draws images,
    # where that is MetaTrainingSampler.
    cfg.META.SAMPLER_PERIOD = 20


def _add_non_finite(cfg: CN) -> None:
    # What happens in the iteration in which NaN or infinity appears in a loss, in logits, in the
    # RPN's proposals or in the gradient. "stop": an error that names images and class, and the
    # batch in OUTPUT_DIR/non_finite. "skip": the step is left out and counted.
    cfg.SOLVER.NON_FINITE = CN()
    cfg.SOLVER.NON_FINITE.ACTION = "stop"
    # With "skip": stop when so many steps in a row were left out.
    cfg.SOLVER.NON_FINITE.MAX_IN_A_ROW = 10


def _add_cached_training(cfg: CN) -> None:
    # Training of the classifier from cached features; tools/train_classifier.py and tools/sweep.py
    # read this node, training through the detector does not.
    cfg.CLASSIFIER = CN()
    # How it is trained: any name in balms_det.classifier.METHOD_REGISTRY.
    cfg.CLASSIFIER.METHOD = "Plain"
    # The method's keyword arguments in upper case.
    cfg.CLASSIFIER.ARGS = CN(new_allowed=True)
    # Which RoIs make a batch: any name in balms_det.classifier.ROI_SAMPLER_REGISTRY. Empty:
    # the method's own, or else batches as the detector makes them.
    cfg.CLASSIFIER.SAMPLER = ""
    # Share of foreground in the batches of samplers that draw RoIs by class; 0: as in the
    # detector's batches.
    cfg.CLASSIFIER.FOREGROUND = 0.0


def _add_evaluation(cfg: CN) -> None:
    # A class is rare up to the first number of training images and common up to the second. These
    # are LVIS's limits; with them the labels that a dataset carries are used.
    cfg.TEST.FREQUENCY_LIMITS = [10, 100]


def _add_authors_keys(cfg: CN) -> None:
    # Keys of the BALMS authors' own code, so that their YAMLs run unchanged. They are translated
    # in balms_det.modeling.authors_presets; new configs use the keys above.
    cfg.MODEL.ROI_HEADS.PRIOR_PROB = 0.001
    cfg.DECOUPLE_TRAINING = False
    cfg.META_REWEIGHT = False
