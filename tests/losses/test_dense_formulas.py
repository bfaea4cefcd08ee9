"""Every loss, with hyperparameters other than its defaults, against its formula written out again.

The golden files hold one setting of most losses. Value, gradient and state over three batches.
"""

from types import SimpleNamespace

import dense_formulas as dense
import dense_softmax_formulas as dense_softmax
import pytest
import torch

from balms_det.losses import build_box_loss

K, R, STEPS = 9, 40, 3
STATS = SimpleNamespace(
    image_count=[2, 160, 7, 30, 11, 95, 130, 4, 101],
    instance_count=[3, 900, 9, 31, 40, 300, 150, 4, 220],
    num_images=200,
)
GUMBEL = {"clamp_min": -3.0, "clamp_max": 6.0}
PCB = {"alpha": 0.7, "momentum": 0.6, "start_epoch": 3, "n_iter": 2}

CASES = {
    "EQLLoss": (dense.eql, [{"lambda_": 0.2}, {"lambda_": 0.055}]),
    "DropLoss": (dense.droploss, [{"lambda_": 0.2}, {"lambda_": 0.5}, {"lambda_": 2.0}]),
    "EQLv2Loss": (
        dense.eqlv2,
        [{"gamma": 5.0, "mu": 0.3, "alpha": 1.5, "initial_pos_neg": 0.6, "eps": 1e-3}],
    ),
    "SeesawLoss": (
        dense_softmax.seesaw,
        [{"p": 0.3, "q": 1.2, "eps": 0.2}, {"p": 1.5, "q": 3.0, "eps": 1e-4}],
    ),
    "FederatedLoss": (
        dense.federated,
        [
            {"fed_loss_num_classes": 1, "freq_weight_power": 1.0},
            {"fed_loss_num_classes": 7, "freq_weight_power": 0.0},
            {"fed_loss_num_classes": 99, "freq_weight_power": 0.7},
        ],
    ),
    "BAGSLoss": (
        dense_softmax.bags,
        [
            {"others_sample_ratio": 0.4, "bin_edges": [5, 50], "counts": "image"},
            {"others_sample_ratio": 3.7, "bin_edges": [4, 41, 500, 10_000], "counts": "instance"},
        ],
    ),
    "ACSLLoss": (
        dense.acsl,
        [
            {
                "score_thr": 0.4,
                "rare_fraction": 0.21,
                "common_fraction": 0.55,
                "frequent_fraction": 0.8,
            }
        ],
    ),
    "LOCELoss": (dense_softmax.loce, [{"alpha": 0.6, "bg_score": 0.2, "init_score": 0.05}]),
    "FCBLLoss": (
        dense.fcbl,
        [
            {"alpha": 0.4, "reweight": True, "prob_thr": 0.3},
            {"alpha": 1.7, "reweight": False, "prob_thr": 0.7},
        ],
    ),
    "ECMLoss": (
        dense.ecm,
        [{"fg_bg_ratio": 0.8, "counts": "image"}, {"fg_bg_ratio": 20.0, "counts": "instance"}],
    ),
    "GumbelLoss": (
        dense.gumbel,
        [
            {**GUMBEL, "loss_clamp": 1e3},
            {**GUMBEL, "loss_clamp": 3.0},
            {"clamp_min": -6.0, "clamp_max": 8.0, "loss_clamp": 1e3},
        ],
    ),
    "GumbelEQLLoss": (dense.gumbel_eql, [{**GUMBEL, "lambda_": 0.2}]),
    "GumbelDropLoss": (
        dense.gumbel_drop,
        [{**GUMBEL, "lambda_": 0.2}, {"lambda_": 0.6, "clamp_min": -6.0, "clamp_max": 3.0}],
    ),
    "PCBLoss": (dense_softmax.pcb, [PCB]),
    "PCBSeesawLoss": (dense_softmax.pcb_seesaw, [{**PCB, "p": 0.5, "q": 1.0, "eps": 0.05}]),
    "PCBEQLv2Loss": (
        dense_softmax.pcb_eqlv2,
        [{**PCB, "gamma": 4.0, "mu": 0.2, "alpha_eqlv2": 2.5}],
    ),
    "BalancedSoftmaxLoss": (
        dense_softmax.balanced_softmax,
        [{"tau": 0.7, "counts": "instance"}, {"tau": 1.3, "counts": "image"}],
    ),
    "BalancedSigmoidLoss": (
        dense.balanced_sigmoid,
        [{"tau": 0.7, "counts": "instance"}, {"tau": 1.3, "counts": "image"}],
    ),
    "FocalLoss": (dense.focal, [{"gamma": 1.3, "alpha": 0.6}]),
    "LDAMLoss": (dense_softmax.ldam, [{"max_m": 0.8, "scale": 12.0, "counts": "image"}]),
    "CircleLoss": (dense_softmax.circle, [{"margin": 0.4, "gamma": 8.0}]),
    "ZLoss": (dense_softmax.z_loss, [{"a": 2.3, "b": 1.1}]),
}
PARAMETERS = [
    pytest.param(name, formula, arguments, id=f"{name}-{number}")
    for name, (formula, settings) in CASES.items()
    for number, arguments in enumerate(settings)
]


def _counts():
    image, instance = (
        torch.tensor(getattr(STATS, f"{kind}_count"), dtype=torch.float64)
        for kind in ("image", "instance")
    )
    return SimpleNamespace(image=image, instance=instance, total=STATS.num_images)


def _batch(loss, step):
    generator = torch.Generator().manual_seed(100 + step)
    logits = 2 * torch.randn(R, loss.num_logits, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K + 1, (R,), generator=generator)
    logits[-8:] *= 4  # some far out
    labels[: R // 3] = K
    if step == STEPS - 1:  # a batch that lacks classes
        labels = labels.clamp(min=4)
    return logits.requires_grad_(), labels


@pytest.mark.parametrize(("name", "formula", "arguments"), PARAMETERS)
def test_loss_is_its_formula(name, formula, arguments):
    loss = build_box_loss(name, K, STATS, **arguments)
    if hasattr(loss, "set_progress"):
        loss.set_progress(0.5)
        loss.num_inst_cnt.fill_(1.0)
        loss.fg_confusion_matrix.copy_(torch.eye(K) * 0.6 + 0.4 / K)
    drawn = []

    def draw_uniform(*shape, like):
        generator = torch.Generator().manual_seed(len(drawn))
        drawn.append(torch.rand(shape, generator=generator, dtype=torch.float64))
        return drawn[-1].to(like.dtype)

    loss.draw_uniform = draw_uniform
    a = SimpleNamespace(**arguments)
    a.state = {key: value.clone() for key, value in loss.state_dict().items()}
    for step in range(STEPS):
        logits, labels = _batch(loss, step)
        found = loss(logits, labels)
        (gradient,) = torch.autograd.grad(found, logits)
        a.draws = drawn[-1] if drawn else None
        expected = formula(logits, labels, _counts(), a) / R
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        if expected.requires_grad:
            (slope,) = torch.autograd.grad(expected, logits)
            torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-12)
        for key, value in a.state.items():
            torch.testing.assert_close(loss.state_dict()[key], value, rtol=1e-9, atol=1e-12)
