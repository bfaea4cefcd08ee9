"""Evaluation from a cache gives the detector's own detections, and so its AP."""

import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model

from balms_det.data.class_stats import build_class_stats
from balms_det.engine import load_weights
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.box_ap import box_ap
from balms_det.evaluation.evaluator import percent
from balms_det.features import (
    CacheOptions,
    FeatureCache,
    FeatureCacheError,
    cache_features,
    evaluate,
)
from balms_det.features.evaluate import CachedEvaluation, cached_rois
from balms_det.modeling.calibration import Head, box_predictors, build_calibration, calibrate_model

EXACT = CacheOptions(purpose="eval", dtype="float32", shard_images=3)
HEADS = {
    "ours": ("LongTailROIHeads", "True"),
    "ours, a box a class": ("LongTailROIHeads", "False"),
    "Detectron2's": ("StandardROIHeads", "True"),
    "our cascade": ("LongTailCascadeROIHeads", "True"),
    "Detectron2's cascade": ("CascadeROIHeads", "True"),
}


def _keys(heads, agnostic="True"):
    return (
        *("MODEL.ROI_HEADS.NAME", heads),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic),
        *("TEST.DETECTIONS_PER_IMAGE", "100"),
    )


def _model(cfg):
    model = build_model(cfg).eval()
    load_weights(cfg, model)
    return model


def _loader(cfg):
    dicts = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    return build_detection_test_loader(dicts, mapper=DatasetMapper(cfg, is_train=False))


def _detections(cfg, model):
    with torch.no_grad():
        return [(batch[0]["image_id"], model(batch)[0]["instances"]) for batch in _loader(cfg)]


def _same(found, expected):
    assert [image_id for image_id, _ in found] == [image_id for image_id, _ in expected]
    assert sum(len(instances) for _, instances in expected) > 10
    for (_, one), (_, other) in zip(found, expected):
        assert len(one) == len(other)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


def _found(detections):
    for image_id, found in detections:
        columns = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        yield (image_id, *(column.numpy() for column in columns))


@pytest.mark.parametrize("name", HEADS)
def test_same_detections_and_ap_as_the_detector(detector, tmp_path, name):
    cfg = detector(*_keys(*HEADS[name]))
    cache_features(cfg, tmp_path / "cache", EXACT)
    model = _model(cfg)
    evaluation = CachedEvaluation(FeatureCache.open(tmp_path / "cache"))
    expected = _detections(cfg, model)
    predictors = box_predictors(model)
    _same(list(evaluation.detections(predictors)), expected)
    ap = box_ap(evaluation.ground_truth, _found(expected))
    assert evaluation.box_ap(predictors) == pytest.approx(ap, abs=0, rel=0, nan_ok=True)


def test_ap_is_that_of_the_annotation_file(detector, tmp_path):
    cfg = detector(*_keys(*HEADS["ours"]))
    cache_features(cfg, tmp_path / "cache", EXACT)
    evaluation = CachedEvaluation(FeatureCache.open(tmp_path / "cache"))
    predictors = box_predictors(_model(cfg))
    found = list(evaluation.detections(predictors))
    of_file = _ap_of_the_file(cfg, found, evaluation)
    assert of_file["AP"] >= 0
    assert evaluation.box_ap(predictors) == pytest.approx(of_file, abs=0, rel=0, nan_ok=True)


def _ap_of_the_file(cfg, detections, evaluation):
    """As the detector's evaluation has it: results against the annotation file."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    category = {c: i for i, c in metadata.thing_dataset_id_to_contiguous_id.items()}
    entries = []
    for image_id, found in detections:
        own = instances_to_coco_json(found, image_id)
        entries += [{**entry, "category_id": category[entry["category_id"]]} for entry in own]
    groups = evaluation.ground_truth.groups
    metrics = evaluate_lvis(metadata.json_file, entries, "bbox", groups=groups).metrics
    return {name: percent(metrics[name]) for name in ("AP", "APr", "APc", "APf")}


def test_calibrated_detections_are_the_detectors(detector, tmp_path):
    cfg = detector(*_keys("LongTailROIHeads"))
    cache_features(cfg, tmp_path / "cache", EXACT)
    evaluation = CachedEvaluation(FeatureCache.open(tmp_path / "cache"))
    stats, classes = build_class_stats(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    norcal = build_calibration("NorCal", Head(classes, "softmax", 0), stats)
    found = list(evaluation.detections(box_predictors(_model(cfg)), [norcal]))
    _same(found, _detections(cfg, calibrate_model(_model(cfg), "NorCal", stats)))


def test_where_features_lie_in_memory_changes_nothing(detector, tmp_path, monkeypatch):
    cfg = detector(*_keys(*HEADS["ours, a box a class"]))
    cache_features(cfg, tmp_path / "cache", EXACT)
    cache = FeatureCache.open(tmp_path / "cache")
    predictors = box_predictors(_model(cfg))
    shards = list(cache.shards())

    def logits_and_boxes(offset):
        moved = [(e, {n: _moved(c, offset) for n, c in columns.items()}) for e, columns in shards]
        monkeypatch.setattr(cache, "shards", lambda: moved)
        rois = cached_rois(cache, predictors)
        return [values for image in rois for values in (*image.logits, image.boxes)]

    # A matrix product of MKL depends on the address modulo 16 bytes.
    aligned = logits_and_boxes(0)
    for offset in (1, 2, 3):
        for one, other in zip(logits_and_boxes(offset), aligned, strict=True):
            assert torch.equal(one, other)


def _moved(values, offset):
    """A copy that starts ``offset`` numbers after an address that torch would choose."""
    room = torch.empty(values.numel() + offset, dtype=values.dtype)[offset:]
    return room.view(values.shape).copy_(values)


@pytest.fixture(scope="module")
def half(detector, tmp_path_factory):
    cfg = detector(*_keys(*HEADS["ours"]))
    folder = tmp_path_factory.mktemp("half") / "cache"
    cache_features(cfg, folder, CacheOptions(purpose="eval"))
    return cfg, FeatureCache.open(folder)


def test_half_precision_moves_scores_little(detector, half):
    cfg, cache = half
    assert next(cache.shards())[1]["0/features"].dtype == torch.float16
    model = _model(cfg)
    predictors = box_predictors(model)
    with torch.no_grad():
        for rois in cached_rois(cache, predictors):
            assert rois.logits[0].dtype == torch.float32
    found, expected = CachedEvaluation(cache).detections(predictors), _detections(cfg, model)
    for (_, one), (_, other) in zip(found, expected):
        torch.testing.assert_close(one.scores, other.scores, atol=1e-2, rtol=0)


def test_wrong_uses(detector, half, cached):
    cfg, cache = half
    predictors = box_predictors(_model(cfg))
    training = FeatureCache.open(cached.folder)
    with pytest.raises(FeatureCacheError, match=r"for training.*--purpose eval"):
        CachedEvaluation(training)
    with pytest.raises(FeatureCacheError, match=r"for evaluation.*--purpose train"):
        cache.stage(0)
    with pytest.raises(FeatureCacheError, match="1 stages, the model 2"):
        next(cached_rois(cache, [*predictors, *predictors]))
    wider = torch.nn.Linear(predictors[0].bbox_pred.in_features + 1, 4)
    narrow, predictors[0].bbox_pred = predictors[0].bbox_pred, wider
    with pytest.raises(FeatureCacheError, match="256 numbers a feature, the model 257"):
        next(cached_rois(cache, predictors))
    predictors[0].bbox_pred = narrow
    predictors[0].num_classes += 1
    with pytest.raises(FeatureCacheError, match="6 classes and the model has 7"):
        next(cached_rois(cache, predictors))


def test_matches_its_model_and_classes(half, cached):
    cfg, cache = half
    cache.check_matches(cfg)
    with pytest.raises(FeatureCacheError, match="of another model than"):
        cache.check_matches(cached.cfg)
    with pytest.raises(FeatureCacheError, match="caches of different models"):
        cache.check_same_model(FeatureCache.open(cached.folder))
    cache.check_same_model(cache)
    names = list(cache.manifest.class_names)
    with pytest.raises(FeatureCacheError, match=r"in another order: class 0 is"):
        cache.check_classes(6, names[::-1])
    with pytest.raises(FeatureCacheError, match="has 6 classes and the model has 5"):
        cache.check_classes(5)


def test_training_on_other_data_is_refused(cached):
    training = FeatureCache.open(cached.folder)
    training.check_matches(cached.cfg)
    cfg = cached.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST
    with pytest.raises(FeatureCacheError, match=r"other data than DATASETS.TRAIN .*_val.*_train"):
        training.check_matches(cfg)


def test_changed_annotations_are_noticed(half, monkeypatch):
    other = evaluate.dataset_source
    monkeypatch.setattr(evaluate, "dataset_source", lambda name: (other(name), "edited"))
    with pytest.raises(FeatureCacheError, match="not those that the cache was made of"):
        CachedEvaluation(half[1])
