"""A part of a state is loaded, and all else stays: above all the statistics of frozen layers."""

from collections import OrderedDict

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from balms_det.classifier.run import classifier_state, load_classifier_state
from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.partial_state import copy_into, state_digest
from balms_det.engine.trainer import freeze_all_but
from balms_det.engine.weights_files import read_checkpoint, write_weights


class Detector(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.cls_score = norm, nn.Linear(2, 3)


def frozen(mean=5.0, variance=9.0):
    layer = FrozenBatchNorm2d(4)
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return layer


def statistics(model):
    return [model.norm.running_mean.unique().item(), model.norm.running_var.unique().item()]


def test_a_classifier_is_loaded_and_frozen_statistics_stay():
    model, other = Detector(frozen()), Detector(frozen())
    load_classifier_state(model, classifier_state(other))
    assert torch.equal(model.cls_score.weight, other.cls_score.weight)
    assert statistics(model) == [5, 9]
    assert state_digest(model) == state_digest(other)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pkl"])
@pytest.mark.parametrize("heuristics", [False, True])
def test_a_file_of_the_classifier_alone_keeps_them(tmp_path, suffix, heuristics):
    model, other = Detector(frozen()), Detector(frozen(1, 2))
    path = str(tmp_path / f"part.{suffix}")
    content = {"model": classifier_state(other)}
    if heuristics:
        content |= {"matching_heuristics": True, "__author__": "balms_det"}
    write_weights(path, content)
    LongTailCheckpointer(model).load(path)
    assert torch.equal(model.cls_score.weight, other.cls_score.weight)
    assert statistics(model) == [5, 9]


def test_a_file_of_the_layer_without_statistics_has_them_folded_in(tmp_path):
    """As in Detectron's model zoo, whose layers are scale and shift alone."""
    model = Detector(frozen())
    weights = {"norm.weight": torch.full((4,), 3.0), "norm.bias": torch.zeros(4)}
    write_weights(tmp_path / "old.pth", {"model": weights})
    LongTailCheckpointer(model).load(str(tmp_path / "old.pth"))
    assert statistics(model) == [0, 1] and model.norm.weight.unique().item() == 3


def test_a_whole_file_brings_its_own(tmp_path):
    model, other = Detector(frozen()), Detector(frozen(0, 1))
    torch.save({"model": other.state_dict()}, tmp_path / "whole.pth")
    LongTailCheckpointer(model).load(str(tmp_path / "whole.pth"))
    assert statistics(model) == [0, 1]


def test_stage_2_gets_the_variances_of_trained_normalisation_as_they_are(tmp_path):
    """Some releases of Detectron2 subtract eps from those whose version number is below 3."""
    trained = Detector(nn.BatchNorm2d(4))
    trained.norm.running_mean.fill_(5)
    trained.norm.running_var.fill_(2e-6)
    torch.save({"model": trained.state_dict()}, tmp_path / "stage1.pth")
    assert read_checkpoint(tmp_path / "stage1.pth")["model"]._metadata["norm"]["version"] == 2
    model = freeze_all_but(Detector(nn.BatchNorm2d(4)), ["cls_score"])
    seen = []
    whole = FrozenBatchNorm2d._load_from_state_dict

    def watch(layer, state, prefix, metadata, *others):
        seen.append(metadata["version"])
        whole(layer, state, prefix, metadata, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenBatchNorm2d, "_load_from_state_dict", watch)
        LongTailCheckpointer(model).load(str(tmp_path / "stage1.pth"))
    assert seen == [3]
    assert torch.equal(model.norm.running_var, trained.norm.running_var)


def test_what_does_not_fit_is_refused_whole():
    model = Detector(frozen())
    before = state_digest(model)
    part = OrderedDict({"cls_score.bias": torch.ones(3), "cls_score.scale": torch.ones(1)})
    with pytest.raises(ValueError, match=r"has no 'cls_score\.scale'"):
        copy_into(model, part)
    with pytest.raises(ValueError, match=r"\(3,\) in the model and \(2,\)"):
        copy_into(model, {"cls_score.weight": torch.ones(3, 2), "cls_score.bias": torch.ones(2)})
    assert state_digest(model) == before


def test_a_digest_tells_values_names_and_types_apart():
    model = Detector(frozen())
    seen = {state_digest(model)}
    for change in (lambda m: m.norm.running_mean.add_(1e-6), lambda m: m.double()):
        change(model)
        assert state_digest(model) not in seen
        seen.add(state_digest(model))
