"""The sigmoid losses written out again as their papers do: dense targets, autograd, plain formulas.

Slow and independent of the package. Each takes ``(z, y, n, a)``: (R, L) logits, (R,) labels with
background K, a namespace of ``image``, ``instance`` (K,) counts and ``total`` images, and one of
arguments; and returns the sum over RoIs. State comes in and goes out through ``a``.
"""

import torch
from torch.nn import functional as F


def targets(y, columns):
    return F.one_hot(y, max(columns, int(y.max()) + 1))[:, :columns].double()


def binary(z, t, w=1.0):
    return (w * F.binary_cross_entropy_with_logits(z, t, reduction="none")).sum()


def foreground(y, n):
    return (y < len(n.image)).double()[:, None]


def equalization_weight(z, y, n, a):
    t, rare = targets(y, len(n.image)), (n.image / n.total < a.lambda_).double()
    return 1 - foreground(y, n) * rare * (1 - t), t, rare


def eql(z, y, n, a):
    w, t, _ = equalization_weight(z, y, n, a)
    return binary(z, t, w)


def drop_weight(z, y, n, a):
    w, t, rare = equalization_weight(z, y, n, a)
    labels = y[y < len(rare)]
    rho = rare[labels].mean() if len(labels) else torch.tensor(1.0)
    dropped = (1 - foreground(y, n)) * rare * (a.draws > rho).double()
    return w * (1 - dropped), t


def droploss(z, y, n, a):
    w, t = drop_weight(z, y, n, a)
    return binary(z, t, w)


def gumbel_terms(z, t, a):
    p = torch.exp(-torch.exp(-z.clamp(a.clamp_min, a.clamp_max)))
    return F.binary_cross_entropy(p, t, reduction="none")


def gumbel(z, y, n, a):
    loss = gumbel_terms(z, targets(y, z.shape[1]), a).sum()
    return (loss / len(z)).clamp(max=a.loss_clamp) * len(z)


def gumbel_eql(z, y, n, a):
    w, t, _ = equalization_weight(z, y, n, a)
    return (w * gumbel_terms(z, t, a)).sum()


def gumbel_drop(z, y, n, a):
    w, t = drop_weight(z, y, n, a)
    return (w * gumbel_terms(z, t, a)).sum()


def balanced_sigmoid(z, y, n, a):
    f = n.image / n.total if a.counts == "image" else n.instance / n.instance.sum()
    shift = a.tau * torch.log((1 - f) / f)
    return binary(z - foreground(y, n) * shift, targets(y, z.shape[1]))


def ecm(z, y, n, a):
    count = n.image if a.counts == "image" else n.instance
    count = torch.cat([count, a.fg_bg_ratio * count.sum()[None]])
    ratio = (count.sum() - count) / count
    w = ratio * torch.log((1 + ratio) / ratio)
    return binary(2 * z - torch.log(ratio) / 4, targets(y, z.shape[1]), w)


def eqlv2(z, y, n, a):
    t = targets(y, z.shape[1])
    negative = 1 / (1 + torch.exp(-a.gamma * (a.state["pos_neg"] - a.mu)))
    negative, positive = F.pad(negative, (0, 1), value=1.0), None
    positive = 1 + a.alpha * (1 - negative)
    w = t * positive + (1 - t) * negative
    size = (z.sigmoid() - t).abs().detach() * w
    pulled, pushed = (size * t).sum(0)[:-1], (size * (1 - t)).sum(0)[:-1]
    a.state["pos_grad"] = a.state["pos_grad"] + pulled
    a.state["neg_grad"] = a.state["neg_grad"] + pushed
    a.state["pos_neg"] = a.state["pos_grad"] / (a.state["neg_grad"] + a.eps)
    return binary(z, t, w)


def acsl(z, y, n, a):
    classes = len(n.image)
    t, w = targets(y, classes + 1), (z.sigmoid() >= a.score_thr).double()
    groups = [n.image <= 10, (n.image > 10) & (n.image <= 100), n.image > 100]
    rows = (y == classes).nonzero()[:, 0]
    w[rows] = 0.0
    shares = (a.rare_fraction, a.common_fraction, a.frequent_fraction)
    for column, (group, share) in enumerate(zip(groups, shares)):
        order = a.draws[rows, column].argsort()[: int(len(rows) * share)]
        w[rows[order, None], group.nonzero()[None, :, 0]] = 1.0
    return binary(z, t, torch.maximum(w, t))


def fcbl(z, y, n, a):
    classes, t = len(n.image), targets(y, z.shape[1])
    m = a.state["cm_numerator"] / a.state["num_gt"].clamp(min=1)[:, None]
    m = m.clamp(min=1e-3)
    shift = torch.zeros_like(z)
    w = torch.ones_like(z)
    score = z.detach().sigmoid()
    score[:, :-1] *= 1 - score[:, -1:]
    for row, label in enumerate(y.tolist()):
        if label < classes:
            shift[row, :-1] = a.alpha * torch.log(m[label] / m[:, label])
            if a.reweight:
                kept = (score[row] >= score[row, label]) | (score[row] >= a.prob_thr)
                w[row, :-1] = kept[:-1].double()
            a.state["cm_numerator"][label] += z[row, :-1].detach().softmax(0)
            a.state["num_gt"][label] += 1
    return binary(z + shift, t, w)


def federated(z, y, n, a):
    present = set(y.tolist())
    keys = -torch.log1p(-a.draws) / n.image**a.freq_weight_power
    absent = [c for c in keys.argsort().tolist() if c not in present]
    kept = absent[: max(0, a.fed_loss_num_classes - len(present))]
    kept += [c for c in present if c < len(n.image)]
    return binary(z[:, kept], targets(y, len(n.image) + 1)[:, kept])


def focal(z, y, n, a):
    t = targets(y, z.shape[1])
    right = z * (2 * t - 1)
    weight = t * a.alpha + (1 - t) * (1 - a.alpha)
    return -(weight * (-right).sigmoid() ** a.gamma * F.logsigmoid(right)).sum()
