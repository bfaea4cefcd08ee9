"""What every registered loss must be blind to, and what its rows may know of each other."""

from types import SimpleNamespace

import pytest
import torch
from loss_fixtures import ALL_LOSSES, STATS, K, R, fix_draws, make_batch, make_loss

EQUAL = SimpleNamespace(image_count=[500] * K, instance_count=[500] * K, num_images=1000)
every_loss = pytest.mark.parametrize("name", ALL_LOSSES)


@every_loss
def test_order_of_rois_does_not_matter(name):
    straight, shuffled = make_loss(name), make_loss(name)
    logits, labels = make_batch(straight)
    order = torch.randperm(R, generator=torch.Generator().manual_seed(1))
    fix_draws(straight)
    fix_draws(shuffled, lambda draws: draws[order] if len(draws) == R else draws)
    for _ in range(2):  # the second time with the state of the first
        rows = straight.per_roi(logits, labels)
        torch.testing.assert_close(shuffled.per_roi(logits[order], labels[order]), rows[order])


@every_loss
def test_order_of_classes_does_not_matter(name):
    order = torch.randperm(K, generator=torch.Generator().manual_seed(1))
    moved = {
        key: [getattr(STATS, key)[c] for c in order] for key in ("image_count", "instance_count")
    }
    straight = make_loss(name)
    shuffled = make_loss(name, stats=SimpleNamespace(num_images=STATS.num_images, **moved))
    fix_draws(straight)
    fix_draws(shuffled, lambda draws: draws[..., order] if draws.shape[-1] == K else draws)
    logits, labels = make_batch(straight)
    new_label = torch.cat([order.argsort(), torch.tensor([K])])[labels]
    new_logits = logits.detach().clone()
    new_logits[:, shuffled.class_columns] = logits.detach()[:, straight.class_columns[order]]
    for _ in range(2):
        torch.testing.assert_close(
            shuffled.per_roi(new_logits, new_label), straight.per_roi(logits, labels)
        )
    columns = torch.cat([order, torch.tensor([K])])
    torch.testing.assert_close(shuffled.scores(new_logits), straight.scores(logits)[:, columns])


@every_loss
def test_jacobian_is_block_diagonal(name):
    """Meta learning takes the gradient of the sum for the gradients of the rows."""
    loss = make_loss(name)
    logits, labels = make_batch(loss, rows=8)
    fix_draws(loss)
    loss.per_roi(logits, labels)
    per_roi = loss.per_roi(logits, labels)
    (of_sum,) = torch.autograd.grad(per_roi.sum(), logits, retain_graph=True)
    for row in range(8):
        (gradient,) = torch.autograd.grad(per_roi[row], logits, retain_graph=True)
        alone = torch.zeros_like(gradient).index_copy(0, torch.tensor([row]), of_sum[row : row + 1])
        torch.testing.assert_close(gradient, alone)


@pytest.mark.parametrize(
    "name", [name for name in ALL_LOSSES if make_loss(name).equal_counts_are_plain]
)
def test_equal_counts_give_the_plain_loss(name):
    """Where theory says so; half of all images, where the sigmoid form's offset is zero."""
    loss = make_loss(name, stats=EQUAL)
    logits, labels = make_batch(loss)
    torch.testing.assert_close(loss.per_roi(logits, labels), loss.plain_per_roi(logits, labels))


@every_loss
def test_scores_rise_where_the_plain_loss_falls(name):
    """Rows trained to be class c score highest at c; a background row scores low everywhere."""
    loss = make_loss(name)
    labels = torch.arange(K + 1)
    classifier = loss.reset_classifier(torch.nn.Linear(K + 1, loss.num_logits))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.1)
    features = torch.eye(K + 1)
    for _ in range(150):
        optimizer.zero_grad()
        loss.plain_loss(classifier(features), labels).backward()
        optimizer.step()
    logits = classifier(features).detach()
    scores = loss.scores(logits)
    assert torch.equal(scores[:K, :K].argmax(dim=1), labels[:K])
    assert scores[K, :K].max() < scores.diagonal()[:K].min()
    assert torch.equal(loss.accuracy_scores(logits).argmax(dim=1), labels)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_finite_at_plus_and_minus_50(name, dtype):
    loss = make_loss(name)
    logits, labels = make_batch(loss, dtype=dtype)
    logits = (50 * logits.detach().sign()).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@every_loss
def test_accelerators_take_another_way_to_the_same_loss(name, monkeypatch):
    """All rows at once, background RoIs too, and no look at a value."""
    results = []
    for on_cpu in (True, False):
        monkeypatch.setattr(
            "balms_det.losses.core.functional.on_cpu", lambda tensor, cpu=on_cpu: cpu
        )
        loss = make_loss(name)
        if hasattr(loss, "set_progress"):
            loss.set_progress(1.0)
            loss.num_inst_cnt.fill_(1.0)
        fix_draws(loss)
        logits, labels = make_batch(loss)
        rows = [loss.per_roi(logits, labels) for _ in range(2)]  # the second with the first's state
        gradients = [torch.autograd.grad(row.sum(), logits)[0] for row in rows]
        results.append(rows + gradients + [value.clone() for value in loss.state_dict().values()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
