"""The losses written out again as their papers do: dense targets, autograd, one formula a function.

Slow and independent of the package. Each takes ``(z, y, n, a)``: (R, L) logits, (R,) labels with
background K, a namespace of ``image``, ``instance`` (K,) counts and ``total`` images, and one of
arguments; and returns the sum over RoIs. State comes in and goes out through ``a``.
"""

import math

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


def balanced_softmax(z, y, n, a):
    count = n.image if a.counts == "image" else n.instance
    shift = a.tau * torch.log(count / count.mean())
    return F.cross_entropy(z + F.pad(shift, (0, 1)), y, reduction="sum")


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


def seesaw_shift(z, y, a):
    """log(M C) of foreground rows, with the count of the batch in ``a.state`` already."""
    count = a.state["cum_samples"][:-1].clamp(min=1)
    p = z.detach().softmax(1)
    own = p.gather(1, y[:, None]).clamp(min=a.eps)
    mitigation = (count / count[y][:, None]).clamp(max=1) ** a.p
    return torch.log(
        mitigation * (p / own).clamp(min=1) ** a.q * (1 - targets(y, len(count)))
        + targets(y, len(count))
    )


def move_counts(y, a):
    rows = len(a.state["cum_samples"])
    a.state["cum_samples"] = a.state["cum_samples"] + torch.bincount(y, minlength=rows)


def objectness(z, y):
    classes = z.shape[1] - 2
    return F.cross_entropy(z[:, classes:], (y == classes).long(), reduction="sum")


def seesaw(z, y, n, a):
    move_counts(y, a)
    own = y < z.shape[1] - 2
    classes = z[own, :-2]
    shifted = classes + seesaw_shift(classes, y[own], a)
    return F.cross_entropy(shifted, y[own], reduction="sum") + objectness(z, y)


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


def loce(z, y, n, a):
    p, m = z.detach().softmax(1), a.state["mean_score"]
    for label in set(y.tolist()) - {len(n.image)}:
        values = p[y == label, label]
        kept = a.alpha ** len(values)
        m[label] = kept * m[label] + (1 - kept) * values.mean()
    return F.cross_entropy(z + m.log(), y, reduction="sum")


def move_confusion(p, y, a, normalise):
    m = a.state["fg_confusion_matrix"]
    for label in set(y.tolist()) - {len(m)}:
        m[label] = a.momentum * m[label] + (1 - a.momentum) * p[y == label].mean(0)
        if normalise:
            m[label] /= m[label].sum()
        a.state["num_inst_cnt"][label] += (y == label).sum()
    return m


def pcb(z, y, n, a):
    classes = len(n.image)
    m = move_confusion(z[:, :-1].detach().softmax(1), y, a, normalise=True)
    loss = F.cross_entropy(z, y, reduction="none")
    for row, label in enumerate(y.tolist()):
        if label < classes:
            soft = m[:, label] / m[:, label].sum()
            log_p = z[row].log_softmax(0)[:-1]
            divergence = (soft * (soft.log() - log_p)).sum()
            loss = loss.index_put(
                (torch.tensor(row),), (1 - a.alpha) * loss[row] + a.alpha * divergence
            )
    return loss.sum()


def pcb_seesaw(z, y, n, a):
    move_counts(y, a)
    classes = z[:, :-2]
    m = move_confusion(classes.detach().softmax(1), y, a, normalise=True)
    own = y < len(m)
    labels, shifted = y[own], classes[own] + seesaw_shift(classes[own], y[own], a)
    log_p = shifted.log_softmax(1)
    hard = -log_p.gather(1, labels[:, None]).sum()
    soft = -((m / m.sum(0)).t()[labels] * log_p).sum()
    return (1 - a.alpha) * hard + a.alpha * soft + objectness(z, y)


def pcb_eqlv2(z, y, n, a):
    weights = a.state["pos_neg"]
    m = move_confusion(z[:, :-1].detach().sigmoid(), y, a, normalise=False)
    t = targets(y, z.shape[1])
    own = y < len(m)
    t[own] = (1 - a.alpha) * t[own] + a.alpha * F.pad(m.t(), (0, 1))[y[own]]
    negative = F.pad(torch.sigmoid(a.gamma * (weights - a.mu)), (0, 1), value=1.0)
    positive = 1 + a.alpha_eqlv2 * (1 - negative)
    w = t * positive + (1 - t) * negative
    size = (z.sigmoid() - t).abs().detach() * w
    a.state["pos_grad"] = a.state["pos_grad"] + (size * t).sum(0)[:-1]
    a.state["neg_grad"] = a.state["neg_grad"] + (size * (1 - t)).sum(0)[:-1]
    a.state["pos_neg"] = a.state["pos_grad"] / (a.state["neg_grad"] + 1e-10)
    return binary(z, t, w)


def federated(z, y, n, a):
    present = set(y.tolist())
    keys = -torch.log1p(-a.draws) / n.image**a.freq_weight_power
    absent = [c for c in keys.argsort().tolist() if c not in present]
    kept = absent[: max(0, a.fed_loss_num_classes - len(present))]
    kept += [c for c in present if c < len(n.image)]
    return binary(z[:, kept], targets(y, len(n.image) + 1)[:, kept])


def bags(z, y, n, a):
    count = n.image if a.counts == "image" else n.instance
    bins = sum((count >= edge).long() for edge in a.bin_edges)
    loss = F.cross_entropy(z[:, :2], (y < len(count)).long(), reduction="mean")
    start = 2
    for b in range(len(a.bin_edges) + 1):
        members = (bins == b).nonzero()[:, 0].tolist()
        part = z[:, start : start + 1 + len(members)]
        start += 1 + len(members)
        label = torch.tensor([members.index(c) + 1 if c in members else 0 for c in y.tolist()])
        own = (label > 0).nonzero()[:, 0].tolist()
        others = [r for r in a.draws[:, b].argsort().tolist() if r not in own]
        rows = own + others[: int(len(own) * a.others_sample_ratio)]
        if own:
            loss = loss + F.cross_entropy(part[rows], label[rows])
    return loss * len(z)


def focal(z, y, n, a):
    t = targets(y, z.shape[1])
    right = z * (2 * t - 1)
    weight = t * a.alpha + (1 - t) * (1 - a.alpha)
    return -(weight * (-right).sigmoid() ** a.gamma * F.logsigmoid(right)).sum()


def ldam(z, y, n, a):
    a.state["iterations"] = a.state["iterations"] + 1
    margin = torch.cat([n.image, torch.tensor([math.inf])]) ** -0.25
    margin = a.max_m * margin / margin.max()
    return F.cross_entropy(z - a.scale * margin * targets(y, z.shape[1]), y, reduction="sum")


def circle(z, y, n, a):
    s, t = z / a.gamma, targets(y, z.shape[1])
    fixed = s.detach()
    others = (fixed + a.margin).clamp(min=0) * (s - a.margin)
    own = (1 + a.margin - fixed).clamp(min=0) * (s - (1 - a.margin))
    return F.cross_entropy(a.gamma * (t * own + (1 - t) * others), y, reduction="sum")


def z_loss(z, y, n, a):
    u = (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True)
    return (F.softplus(a.a * (a.b - u.gather(1, y[:, None]))) / a.a).sum()
