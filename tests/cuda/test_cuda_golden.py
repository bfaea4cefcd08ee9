"""The authors' numbers on a GPU: the golden tests of the other rooms, whose tensors are made there.

They name no device, so the default device decides.
"""

import pytest
import torch

from tests.cuda.gpu import DEVICE, needs_cuda
from tests.losses.test_golden_confusion_losses import *  # noqa: F403
from tests.losses.test_golden_long_tail_losses import *  # noqa: F403
from tests.losses.test_golden_losses import *  # noqa: F403
from tests.meta.test_meta_golden import *  # noqa: F403
from tests.modeling.test_calibration_golden import *  # noqa: F403

pytestmark = needs_cuda


@pytest.fixture(autouse=True)
def _made_on_the_gpu():
    with torch.device(DEVICE):
        yield
