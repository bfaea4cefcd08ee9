"""What is cached is what stage 2 would see."""

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from balms_det.engine import LongTailTrainer, load_weights
from balms_det.features import CacheOptions, FeatureCache, cache_features
from balms_det.features.make import ExampleDataset, build_mapper
from balms_det.features.options import build_settings, load_records, with_dataset
from balms_det.features.record import TrainingRecorder
from balms_det.modeling.box_predictor import box_predictors
from balms_det.modeling.recording import record_silently
from balms_det.utils.randomness import seed_generators
from tests.versions import needs_torch

CASCADE = ("MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads")
ALL_ROIS = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 10000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0)
OPTIONS = CacheOptions(num_images=3, views=2, background=-1, dtype="float32", shard_images=2)


def _stage2(cfg, *options):
    """The model of a stage 2 run, as its trainer has it."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DECOUPLED.ENABLED = True
    cfg.merge_from_list(list(options))
    model = LongTailTrainer.build_model(cfg)
    load_weights(cfg, model)
    return model.train()


def _examples(cfg, options=OPTIONS):
    cfg = with_dataset(cfg, options)
    records = load_records(cfg, options)
    settings = build_settings(cfg, options, records)
    return ExampleDataset(records, build_mapper(cfg, settings), settings.seed)


def _sorted_rows(features, labels):
    rows = torch.cat([labels[:, None].double(), features.double()], dim=1)
    return torch.tensor(sorted(rows.tolist()))


@pytest.fixture(scope="module", params=[(), CASCADE], ids=["standard", "cascade"])
def made(request, detector, tmp_path_factory):
    cfg = detector(*request.param)
    folder = tmp_path_factory.mktemp("all") / "cache"
    cache_features(cfg, folder, OPTIONS)
    return cfg, FeatureCache.open(folder)


def test_rois_are_those_of_stage_2(made):
    cfg, cache = made
    examples, model = _examples(cfg), _stage2(cfg, *ALL_ROIS)
    predictors = box_predictors(model)
    assert cache.manifest.num_stages == len(predictors)
    expected = [[] for _ in predictors]
    for view in range(2):
        for image in range(3):
            example = examples[view, image][2]
            for stage, batch in enumerate(record_silently(model, predictors, [example])):
                expected[stage].append((batch.features, batch.gt_classes))
    for stage, batches in enumerate(expected):
        table = cache.stage(stage)
        features = table.gather(torch.arange(len(table)))
        rows = _sorted_rows(*(torch.cat(part) for part in zip(*batches)))
        torch.testing.assert_close(_sorted_rows(features, table.gt_classes), rows)


def _first_view(cache, stage, image):
    """RoIs of an image in view 0, whose shards come first."""
    size = sum(shard.rois[stage] for shard in cache.manifest.shards if shard.view == 0)
    return (cache.stage(stage).image[:size] == image).nonzero().flatten()


def test_logits_are_the_detectors(made):
    cfg, cache = made
    model, examples = _stage2(cfg), _examples(cfg)
    predictors, heads = box_predictors(model), model.roi_heads
    box_heads = heads.box_head if len(predictors) > 1 else [heads.box_head]
    for stage, predictor in enumerate(predictors):
        table = cache.stage(stage)
        for image in range(3):
            rows = _first_view(cache, stage, image)
            assert len(rows)
            with torch.no_grad():
                pixels = model.preprocess_image([examples[0, image][2]])
                maps = model.backbone(pixels.tensor)
                maps = [maps[name] for name in heads.box_in_features]
                pooled = heads.box_pooler(maps, [Boxes(table.boxes(rows))])
                expected = predictor(box_heads[stage](pooled))[0]
                found = predictor.cls_score(table.gather(rows))
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_labels_follow_from_boxes_and_ground_truth(made):
    cfg, cache = made
    examples, table = _examples(cfg), cache.stage(0)
    classes = cache.manifest.num_classes
    for image in range(3):
        rows = _first_view(cache, 0, image)
        truth = examples[0, image][2]["instances"]
        ious = pairwise_iou(Boxes(table.boxes(rows)), truth.gt_boxes)
        best, matched = ious.max(dim=1)
        labels = torch.where(best >= 0.5, truth.gt_classes[matched], classes)
        assert torch.equal(table.gt_classes[rows], labels)
        torch.testing.assert_close(table.ious[rows], best)
        foreground = labels < classes
        assert foreground.any() and not foreground.all()
        assert torch.equal(table.objects[rows] >= 0, foreground)
        same = table.objects[rows][foreground, None] == table.objects[rows][None, foreground]
        assert torch.equal(same, matched[foreground, None] == matched[None, foreground])
        one_class = torch.nn.functional.one_hot(labels, classes + 1)[:, :-1].bool()
        assert torch.equal(table.all_classes(rows), one_class)  # icons carry one class each


def test_no_two_views_or_images_share_an_object(made):
    table = made[1].stage(0)
    first_view = sum(s.rois[0] for s in made[1].manifest.shards if s.view == 0)
    view = (torch.arange(len(table)) >= first_view).long()
    rows = table.objects >= 0
    owners = torch.stack([table.objects, table.image, view], dim=1)[rows]
    assert len(owners[:, 0].unique()) == len(owners.unique(dim=0))


def test_recording_leaves_the_model_as_it_was(detector):
    cfg = detector()
    model = _stage2(cfg)
    before = {name: {*vars(module)} for name, module in model.named_modules()}
    examples = _examples(cfg)
    with TrainingRecorder(model, background=5) as record:
        one, other = (record(examples[0, 0][2], seed=0).columns for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert before == {name: {*vars(module)} for name, module in model.named_modules()}
    assert model.roi_heads.mask_on
    assert not any(module._forward_pre_hooks for module in model.modules())


@needs_torch(2, 3, "nms takes no half precision under the autocast of the CPU")
def test_half_precision_as_in_training(detector):
    cfg = detector()
    model, example = _stage2(cfg), _examples(cfg)[0, 0][2]
    columns = []
    for amp in (False, True):
        with TrainingRecorder(model, background=0, amp=amp) as record:
            columns.append(record(example, seed=0).columns)
    full, half = columns
    assert full["0/features"].dtype == torch.float32
    assert half["0/features"].dtype == torch.bfloat16
    truth = example["instances"].gt_boxes.tensor  # in both, as they are appended to the proposals
    for box in truth:
        rows = [(c["0/boxes"] == box).all(dim=1).nonzero()[0, 0] for c in columns]
        expected, found = full["0/features"][rows[0]], half["0/features"][rows[1]].float()
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_share_of_foreground_is_the_samplers(detector, made):
    cfg, cache = made
    model, examples = _stage2(cfg), _examples(cfg)
    predictors = box_predictors(model)
    classes, foreground, total = cache.manifest.num_classes, 0, 0
    for view in range(2):
        for image in range(3):
            seed_generators(view)
            batch = record_silently(model, predictors, [examples[view, image][2]])[0]
            foreground += int((batch.gt_classes < classes).sum())
            total += len(batch.gt_classes)
    assert cache.manifest.foreground_share(0) == foreground / total
    assert cache.manifest.rois_per_image(0) == total / 6
