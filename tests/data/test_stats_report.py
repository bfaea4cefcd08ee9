"""What people read: tables and a picture of the long tail."""

from PIL import Image

from balms_det.data import ClassStats
from balms_det.data.stats_report import absent_classes, class_table, group_table, plot_long_tail

STATS = ClassStats([0, 4, 50, 900], [0, 8, 50, 5000], 1000, ["yak", "emu", "cat", "person"])


def _row(table, label):
    return next(line for line in table.splitlines() if line.startswith(label)).split()


def test_group_table_has_counts_and_repeat_factors():
    table = group_table(STATS, thresh=0.016)
    assert _row(table, "rare")[:5] == ["rare", "2", "1", "0-4", "8"]
    assert _row(table, "rare")[5:8] == ["1.50", "/", "2.00"]  # yak 1, emu sqrt(0.016 / 0.004)
    assert _row(table, "all")[:5] == ["all", "4", "1", "0-900", "5058"]


def test_group_without_classes_is_an_empty_row():
    table = group_table(ClassStats([4], [4], 1000), thresh=0.001)
    assert _row(table, "frequent") == ["frequent", "0", "0"]


def test_class_table_lists_the_scarcest_first():
    lines = class_table(STATS, thresh=0.016).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["yak", "emu", "cat", "person"]
    assert lines[1].split()[1:5] == ["r", "4", "8", "2.00"]


def test_absent_classes_by_name_or_number():
    assert absent_classes(STATS) == "yak"
    many = ClassStats([0] * 5, [0] * 5, 1)
    assert absent_classes(many, most=2) == "0, 1 and 3 more"
    assert absent_classes(ClassStats([1], [1], 1)) == ""


def test_plot_is_a_picture_with_a_colour_for_each_group(tmp_path):
    path = tmp_path / "new folder" / "tail.png"
    plot_long_tail(STATS, str(path), "four classes")
    colours = {colour for _, colour in Image.open(path).convert("RGB").getcolors(2**20)}
    assert {(0xD1, 0x49, 0x5B), (0xED, 0xAE, 0x49), (0x30, 0x63, 0x8E)} <= colours
    assert [p.name for p in path.parent.iterdir()] == ["tail.png"]
