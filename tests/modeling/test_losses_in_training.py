"""Every loss behind a box predictor in training: half precision, stage 2, meta learner, resume."""

import io
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from balms_det.losses import BOX_LOSS_REGISTRY, build_box_loss
from balms_det.meta import MetaStep, Stage, build_meta_learner
from balms_det.modeling import BoxPredictor
from balms_det.modeling.recording import recorded

K, D, R = 4, 8, 20
STATS = SimpleNamespace(image_count=[0, 5, 20, 100], instance_count=[0, 9, 40, 200], num_images=100)
every_loss = pytest.mark.parametrize("name", sorted(name for name, _ in BOX_LOSS_REGISTRY))


class Training:
    """A predictor with its optimiser and, where it is named, a meta learner."""

    def __init__(self, name, learner=None):
        torch.manual_seed(0)
        self.predictor = BoxPredictor(
            ShapeSpec(channels=D),
            cls_loss=build_box_loss(name, K, STATS),
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=K,
        )
        if hasattr(self.predictor.cls_loss, "set_progress"):
            self.predictor.cls_loss.set_progress(1.0)  # soft labels are on
        self.predictor.bbox_pred.requires_grad_(False)  # stage 2: the classifier alone
        trained = self.predictor.cls_score.parameters()
        self.sgd = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=1e-4)
        self.meta = MetaStep(build_meta_learner(learner, K)) if learner else None

    def batch(self, number):
        generator = torch.Generator().manual_seed(number)
        image = Instances((32, 32))
        image.proposal_boxes = Boxes(torch.tensor([[2.0, 2, 20, 20]]).repeat(R, 1))
        image.gt_boxes = Boxes(torch.tensor([[4.0, 3, 22, 25]]).repeat(R, 1))
        image.gt_classes = torch.randint(1, K + 1, (R,), generator=generator)  # class 0 is absent
        return torch.randn(R, D, generator=generator), [image]

    def step(self, number):
        """One step; the classification loss."""
        torch.manual_seed(number)  # of the losses that draw
        self.sgd.zero_grad()
        value = self._with_meta(number) if self.meta else self._plain(number)
        self.sgd.step()
        return value

    def _plain(self, number):
        features, proposals = self.batch(number)
        loss = self.predictor.losses(self.predictor(features), proposals)["loss_cls"]
        loss.backward()
        return loss.detach()

    def _with_meta(self, number):
        batches = []
        for seed, regress in ((number, True), (100 + number, False)):
            features, proposals = self.batch(seed)
            with recorded([self.predictor], regress=regress) as seen:
                self.predictor.losses(self.predictor(features), proposals)
            batches += seen
        stage = Stage(self.predictor.cls_score, self.predictor.cls_loss, *batches)
        (weighted,), _ = self.meta([stage], self.sgd)
        batches[0].logits.backward(weighted.grad_logits)
        return weighted.value

    def state(self):
        parts = {"predictor": self.predictor, "sgd": self.sgd, "meta": self.meta}
        return {name: part.state_dict() for name, part in parts.items() if part}

    def load(self, state):
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@pytest.fixture(autouse=True)
def storage():
    with EventStorage():
        yield


@every_loss
@pytest.mark.parametrize("learner", [None, "MetaReweighter", "MetaSampler"])
def test_resumed_is_as_if_never_stopped(name, learner):
    """Through a file, with and without a meta learner, the classifier alone training."""
    straight, before = Training(name, learner), Training(name, learner)
    values = [straight.step(number) for number in range(4)]
    file = io.BytesIO()
    for number in range(2):
        before.step(number)
    torch.save(before.state(), file)
    file.seek(0)
    resumed = Training(name, learner)
    resumed.load(torch.load(file, weights_only=True))
    assert [resumed.step(number) for number in (2, 3)] == values[2:]
    expected = straight.predictor.state_dict()
    for key, value in resumed.predictor.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not torch.equal(expected["cls_score.weight"], Training(name).predictor.cls_score.weight)


@every_loss
@pytest.mark.parametrize("learner", [None, "MetaReweighter"])
def test_bfloat16_autocast_has_no_nan(name, learner):
    training = Training(name, learner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [training.step(number) for number in range(3)]
        features, proposals = training.batch(9)
        training.predictor.eval()
        scores = training.predictor.predict_probs(training.predictor(features), proposals)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in values)
    assert all(p.isfinite().all() for p in training.predictor.parameters())
    assert all(buffer.isfinite().all() for buffer in training.predictor.buffers())
    assert scores[0].dtype == torch.float32 and scores[0].isfinite().all()
