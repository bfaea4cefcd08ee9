"""The switch of the guards, and names out of files in what we print."""

import pytest
from matplotlib.figure import Figure

from balms_det.utils.trust import (
    UntrustedFileError,
    insist,
    markdown_cell,
    plot_label,
    printable,
    switched_off,
)


def test_guards_are_on_by_default(monkeypatch):
    monkeypatch.delenv("BALMS_DET_TRUST", raising=False)
    assert switched_off() == set()
    with pytest.raises(UntrustedFileError, match=r"^a\.pth is odd; load.*TRUST=pickle\.$"):
        insist("pickle", "a.pth is odd")


def test_a_list_switches_some_off(monkeypatch, caplog):
    monkeypatch.setenv("BALMS_DET_TRUST", " yaml,paths ,")
    assert switched_off() == {"yaml", "paths"}
    insist("paths", "a.json names /etc/x.png")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "a.json names /etc/x.png" in record.getMessage()
    with pytest.raises(UntrustedFileError):
        insist("pickle", "a.pth is odd")


def test_a_guard_that_does_not_exist_is_an_error(monkeypatch):
    monkeypatch.setenv("BALMS_DET_TRUST", "pickles")
    with pytest.raises(ValueError, match=r"pickles; the guards are pickle, yaml, paths"):
        insist("pickle", "a.pth is odd")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owl", "owl"),
        ("naïve 猫 (r)", "naïve 猫 (r)"),
        ("a|b", "a\\|b"),
        ("<script>", "&lt;script>"),
        ("a\nb\t\x1b[2J\u2028", "a\\nb\\t\\x1b[2J\\u2028"),
        ("fish & chips", "fish & chips"),
    ],
)
def test_a_name_stays_in_its_cell(name, shown):
    assert markdown_cell(name) == shown
    assert markdown_cell(printable(name)) == shown and "\x1b" not in printable(name)


@pytest.mark.parametrize("name", ["$\\frac{$", "a $5 and $6 b", "$x", "plain_name^2"])
def test_matplotlib_draws_a_name_as_it_is(name):
    figure = Figure()
    text = figure.suptitle(plot_label(name))
    figure.canvas.draw()
    drawn, is_tex = text._preprocess_math(text.get_text())
    assert not is_tex and drawn == name
