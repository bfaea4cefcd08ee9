"""The softmax losses written out again, and those with soft labels; see dense_formulas.py."""

import math

import torch
from dense_formulas import binary, targets
from torch.nn import functional as F


def balanced_softmax(z, y, n, a):
    count = n.image if a.counts == "image" else n.instance
    shift = a.tau * torch.log(count / count.mean())
    return F.cross_entropy(z + F.pad(shift, (0, 1)), y, reduction="sum")


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
