import pytest

from balms_det.icons import build_catalog, font, plan
from balms_det.icons.catalog import DISTRACTORS, FAMILIES, frequency_order
from balms_det.icons.files import frequency

pytest.importorskip("fonticon_mdi7", reason="needs fonticon-materialdesignicons7")


@pytest.fixture(scope="module")
def glyphs():
    return font.glyph_codes()


def test_every_listed_glyph_is_in_the_font(glyphs):
    listed = {glyph for family in FAMILIES.values() for glyph in family} | set(DISTRACTORS)
    assert listed <= set(glyphs)


@pytest.mark.parametrize("num_classes", [1, 60, 61, 96, 1203])
def test_names_are_unique_and_no_class_distracts(glyphs, num_classes):
    classes = build_catalog(num_classes, glyphs)
    assert len(classes) == num_classes
    assert len({icon.name for icon in classes}) == num_classes
    assert not {icon.glyph for icon in classes} & set(DISTRACTORS)


def test_more_classes_extend_fewer(glyphs):
    assert build_catalog(1203, glyphs)[:60] == build_catalog(60, glyphs)


@pytest.mark.parametrize("num_classes", [0, 100_000])
def test_impossible_number_of_classes(glyphs, num_classes):
    with pytest.raises(ValueError, match="num_classes"):
        build_catalog(num_classes, glyphs)


def test_every_default_family_spans_rare_common_and_frequent(glyphs):
    order = frequency_order(build_catalog(60, glyphs))
    groups: dict[str, set[str]] = {}
    for icon, count in zip(order, plan.long_tail(60, 3000)):
        groups.setdefault(icon.family, set()).add(frequency(count))
    assert all(letters == set("rcf") for letters in groups.values())


def test_family_members_keep_their_order(glyphs):
    order = [icon.glyph for icon in frequency_order(build_catalog(60, glyphs))]
    for family in list(FAMILIES.values())[:15]:
        ranks = [order.index(glyph) for glyph in family]
        assert ranks == sorted(ranks)


def test_unknown_glyph():
    with pytest.raises(KeyError, match="no-such-glyph"):
        font.glyph_maps("no-such-glyph", 40)


def test_missing_font_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(font, "_MODULE", "no_such_font_package")
    with pytest.raises(ImportError, match="pip install fonticon-materialdesignicons7"):
        font.font_path()
