"""What a checkpoint says of its model and its run, in every format, and what is done with it."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from balms_det.annotations.class_identity import ClassListError
from balms_det.data.class_stats import build_class_stats
from balms_det.engine import (
    LongTailPredictor,
    LongTailTrainer,
    load_cfg,
    load_prediction_cfg,
    load_trained_weights,
)
from balms_det.engine.identity import (
    Identity,
    check_scores,
    check_statistics,
    config_classes,
    identity_in,
    model_identity,
    read_identity,
)
from balms_det.engine.weights_files import IDENTITY, read_checkpoint, write_weights
from balms_det.losses import build_box_loss
from balms_det.workflows.predict import training_metadata

BALANCED = ("MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", "BalancedSoftmaxLoss")
SAID = Identity(
    num_classes=2,
    class_names=["ant", "bee"],
    loss="SoftmaxLoss",
    image_count=[3, 1],
    instance_count=[4, 1],
    num_images=5,
    colours=[[1, 2, 3], [4, 5, 6]],
)


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_it_goes_with_the_weights_into_every_format(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    content = {"model": {"w": torch.ones(2)}, IDENTITY: SAID.plain(), "iteration": 7}
    assert write_weights(path, content) == ["iteration"]
    assert read_identity(path) == identity_in(read_checkpoint(path), path) == SAID
    assert read_identity(path).class_stats().image_count.tolist() == [3, 1]


def test_safetensors_have_it_in_a_json_beside_them(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, {"model": {"w": torch.ones(2)}, IDENTITY: SAID.plain()})
    assert json.loads((tmp_path / "a.json").read_text())[IDENTITY]["class_names"] == ["ant", "bee"]
    write_weights(path, {"model": {"w": torch.ones(2)}})
    assert read_identity(path) is None  # the json is of the file that was there before


def test_files_that_say_nothing(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no checkpoint")
    for name in ("a.pth", "b.pth", "c.pth", ""):
        assert read_identity(tmp_path / name if name else "") is None


def test_a_damaged_one_is_an_error(tmp_path):
    broken = {**SAID.plain(), "image_count": [1]}
    torch.save({"model": {"w": torch.ones(2)}, IDENTITY: broken}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: what it says of its model is damaged"):
        read_identity(tmp_path / "a.pth")


class Predictor(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.cls_loss = loss
        self.cls_score = loss.reset_classifier(nn.Linear(3, loss.num_logits))


@pytest.mark.parametrize(
    ("trained", "read", "fits"),
    [
        ("SoftmaxLoss", "BalancedSoftmaxLoss", True),
        ("SoftmaxLoss", "SigmoidLoss", True),  # converted
        ("EQLv2Loss", "SoftmaxLoss", False),  # as many outputs, which are sigmoids
        ("NormalizedSoftmaxLoss", "SoftmaxLoss", False),  # of directions, not of products
        ("SoftmaxLoss", "BAGSLoss", False),  # whose further outputs would stay random
    ],
)
def test_another_loss_reads_the_outputs_alike_or_is_refused(trained, read, fits):
    stats = SAID.class_stats()
    identity = Identity(**{**SAID.plain(), "loss": trained, "run": None})
    model = Predictor(build_box_loss(read, 2, stats))
    if fits:
        check_scores(identity, model, "a.pth")
        return
    with pytest.raises(ValueError, match=rf"a\.pth was trained with {trained}.* {read}"):
        check_scores(identity, model, "a.pth")


def train(make_cfg, out, *opts, resume=False):
    cfg = make_cfg("stage1.yaml", out, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()", *opts)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def finished(make_cfg, tmp_path_factory):
    """Folder of a run of two iterations, with its config."""
    out = tmp_path_factory.mktemp("finished")
    trainer = train(make_cfg, out, *BALANCED)
    (out / "config.yaml").write_text(trainer.cfg.dump())
    return out


def test_a_run_s_checkpoint_says_what_it_is_of(finished, make_cfg, tmp_path):
    cfg = make_cfg("stage1.yaml", tmp_path, *BALANCED)
    found, stats = read_identity(finished / "model_final.pth"), build_class_stats(cfg)
    assert found.class_names == list(stats.names) and found.loss == "BalancedSoftmaxLoss"
    assert found.image_count == stats.image_count.tolist()
    assert model_identity(cfg, run=found.run) == found
    assert found.run.facts["training data"].startswith("icons_lt_train.json")


def test_a_new_run_leaves_nothing_of_the_old_one_to_resume(finished, make_cfg, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    cfg = make_cfg("stage1.yaml", tmp_path / "run", "SOLVER.MAX_ITER", "2", *BALANCED)
    LongTailTrainer(cfg).resume_or_load(resume=False)  # and is stopped before it has saved
    assert "holds checkpoints of an earlier run" in caplog.text
    again = LongTailTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 0 and (tmp_path / "run" / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ((), r"another loss \(BalancedSoftmaxLoss\(\) there, SoftmaxLoss\(\) here\)"),
        ((*BALANCED, "SOLVER.IMS_PER_BATCH", "4"), r"images of an iteration \(2 there, 4 here\)"),
        ((*BALANCED, "MODEL.FPN.OUT_CHANNELS", "32"), r"another model \(node MODEL\)"),
    ],
)
def test_a_checkpoint_of_another_run_is_not_resumed(finished, make_cfg, tmp_path, opts, words):
    shutil.copytree(finished, tmp_path / "run")
    cfg = make_cfg("stage1.yaml", tmp_path / "run", "SOLVER.MAX_ITER", "4", *opts)
    with pytest.raises(ValueError, match=rf"model_final\.pth is of another run.*{words}"):
        LongTailTrainer(cfg).resume_or_load(resume=True)


def test_what_may_change_is_said(finished, make_cfg, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="balms_det"):
        train(make_cfg, tmp_path / "run", *BALANCED, "SEED", "4", resume=True)
    assert "written with another SEED: 3 there, 4 here" in caplog.text
    assert "Nothing is left to train: model_final.pth was written after iteration 2" in caplog.text


def test_other_training_data_are_another_run(finished, make_cfg, icons, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    content = json.loads((icons / "icons_lt_train.json").read_text())
    content["annotations"].pop()
    (tmp_path / "other.json").write_text(json.dumps(content))
    rows = [["identity_other", str(tmp_path / "other.json"), str(icons)]]
    names = ("DATASETS.FILES", repr(rows), "DATASETS.TRAIN", "('identity_other',)")
    cfg = make_cfg("stage1.yaml", tmp_path / "run", *BALANCED, *names, "DATASETS.TEST", "()")
    with pytest.raises(ValueError, match="of another run, with another training data"):
        LongTailTrainer(cfg).resume_or_load(resume=True)


def test_it_predicts_where_no_data_are(finished, tmp_path):
    """Neither the images nor the annotations that the config names."""
    weights = ["MODEL.WEIGHTS", str(finished / "model_final.pth")]
    names = read_identity(weights[1]).class_names
    text = (finished / "config.yaml").read_text()
    folder = read_folder(text)
    (tmp_path / "config.yaml").write_text(text.replace(folder, "/nowhere"))
    cfg = load_prediction_cfg(str(tmp_path / "config.yaml"), weights)
    predictor = LongTailPredictor(cfg)
    assert predictor.metadata.thing_classes == names
    found = predictor(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())["instances"]
    assert found.pred_classes.max() < len(names) if len(found) else True
    assert len(training_metadata(cfg).thing_classes) == len(names)
    # And with a config that names nothing at all, through load_cfg.
    none = ["DATASETS.FILES", "[]", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]
    bare = load_cfg(str(tmp_path / "config.yaml"), [*weights, *none])
    assert list(config_classes(bare).names) == names
    LongTailPredictor(bare)


def read_folder(text):
    """Where a config has its data."""
    lines = [line for line in text.splitlines() if "icons_lt_train.json" in line]
    return str(Path(lines[0].strip(" -")).parent)


def test_the_weights_order_is_the_models(finished, make_cfg, icons, tmp_path):
    """Training data that were exported anew, with the classes under other ids."""
    content = json.loads((icons / "icons_lt_train.json").read_text())
    top = max(category["id"] for category in content["categories"]) + 1
    for entries, key in ((content["categories"], "id"), (content["annotations"], "category_id")):
        for entry in entries:
            entry[key] = top - entry[key]
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [top - number for number in image[key]]
    (tmp_path / "turned.json").write_text(json.dumps(content))
    rows = [["identity_turned", str(tmp_path / "turned.json"), str(icons)]]
    data = ("DATASETS.FILES", repr(rows), "DATASETS.TRAIN", "('identity_turned',)")
    weights = ("MODEL.WEIGHTS", str(finished / "model_final.pth"))
    cfg = make_cfg("stage1.yaml", tmp_path, *BALANCED, *data, *weights, "DATASETS.TEST", "()")
    found, stats = read_identity(weights[1]), build_class_stats(cfg)
    assert list(stats.names) == found.class_names
    assert stats.image_count.tolist() == found.image_count
    load_trained_weights(cfg, LongTailTrainer.build_model(cfg))


def test_a_model_without_names_is_evaluated_on_as_many_classes(make_cfg, tmp_path):
    """Neither the config nor the weights say more than how many they are."""
    for number, fits in (("6", True), ("5", False)):
        none = ("DATASETS.TRAIN", "()", "MODEL.ROI_HEADS.NUM_CLASSES", number)
        cfg = make_cfg("stage1.yaml", tmp_path, *none)
        if fits:
            LongTailTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
            continue
        with pytest.raises(ClassListError, match=r"icons_lt_val\.json.* has 6 .*NUM_CLASSES.* 5"):
            LongTailTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])


def test_other_classes_do_not_predict(finished, make_cfg, icons, tmp_path):
    content = json.loads((icons / "icons_lt_train.json").read_text())
    content["categories"][0].update(name="gnu", synonyms=["gnu"])
    (tmp_path / "renamed.json").write_text(json.dumps(content))
    rows = [["identity_renamed", str(tmp_path / "renamed.json"), str(icons)]]
    opts = ["DATASETS.FILES", repr(rows), "DATASETS.TRAIN", "('identity_renamed',)"]
    opts += ["DATASETS.TEST", "()", "MODEL.WEIGHTS", str(finished / "model_final.pth")]
    with pytest.raises(ClassListError, match=r"renamed\.json.*model_final\.pth.*'gnu'"):
        load_prediction_cfg(str(finished / "config.yaml"), opts)
    cfg = make_cfg("stage1.yaml", tmp_path, *opts)
    with pytest.raises(ClassListError, match=r"model_final\.pth.*renamed\.json.*'gnu'"):
        load_trained_weights(cfg, LongTailTrainer.build_model(cfg))


def test_statistics_of_a_calibration_are_of_the_model_s_classes(finished, make_cfg, tmp_path):
    names = read_identity(finished / "model_final.pth").class_names
    path = tmp_path / "statistics.json"
    node = "MODEL.ROI_BOX_HEAD.CALIBRATION"
    arguments = (f"{node}.NAME", "FRACAL", f"{node}.ARGS.STATISTICS", str(path))
    cfg = make_cfg("stage1.yaml", tmp_path, *arguments)
    for classes, fits in ((names, True), (None, True), (names[::-1], False), (names[1:], False)):
        said = {} if classes is None else {"classes": classes}
        path.write_text(json.dumps({"fractal_dimension": [1.0] * len(names), **said}))
        if fits:
            check_statistics(cfg)
            continue
        with pytest.raises(ClassListError, match=r"statistics\.json.*icons_lt_train\.json"):
            check_statistics(cfg)
