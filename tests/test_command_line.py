"""Mistakes of a tool's user end in one line, in a loader's worker too; faults of ours do not."""

import runpy

import pytest
from torch.utils.data import DataLoader

from balms_det.losses import build_box_loss
from balms_det.utils.command_line import describe, is_fault, one_line_errors


class Broken:
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise self.error from cause


class Calling(Broken):
    def __getitem__(self, index):
        return self.error()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [OSError("a.png cannot be read: it ends early"), ValueError("two\nlines"), KeyError("k")],
)
def test_the_message_is_that_of_the_error(workers, error, capsys):
    @one_line_errors
    def main():
        list(DataLoader(Broken(error), num_workers=workers))

    assert main() == 1
    assert capsys.readouterr().err == f"error: {describe(error)}\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_ours_is_raised(workers, tmp_path):
    """Something that no line of the package complains of."""
    file = tmp_path / "balms_det" / "ours.py"
    file.parent.mkdir()
    file.write_text("def look_up():\n    return {}[3]\n")
    look_up = runpy.run_path(str(file))["look_up"]

    @one_line_errors
    def main():
        list(DataLoader(Calling(look_up), num_workers=workers))

    with pytest.raises(KeyError):
        main()


def test_what_the_package_complains_of_is_no_fault():
    with pytest.raises(Exception) as caught:
        build_box_loss("NoSuchLoss", num_classes=2, class_stats=None)
    assert not is_fault(caught.value)
