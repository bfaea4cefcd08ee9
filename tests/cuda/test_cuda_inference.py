"""Fast inference equals Detectron2's on a GPU, to the last bit and in the same order."""

import pytest

from tests.cuda.gpu import DEVICE, needs_cuda
from tests.modeling import test_fast_inference as fast

pytestmark = needs_cuda


def _on_gpu(image):
    boxes, scores, shape = image
    return boxes.to(DEVICE), scores.to(DEVICE), shape


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_equals_detectron2_on_random_cases(first):
    for seed in range(first, first + fast.CASES):
        image, limits = fast._random_case(seed)
        fast.assert_same([_on_gpu(image)], limits)


@pytest.mark.parametrize(("classes", "hot"), [(100, 0), (300, 0), (300, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_detectron2_with_many_candidates(classes, hot, seed):
    boxes, scores, shape = fast._many(seed, rows=400, classes=classes)
    scores[:, :hot] += 1  # of these classes are the best
    for topk in (-1, 30, 300):
        fast.assert_same([_on_gpu((boxes, scores, shape))], (1e-4, 0.5, topk))
