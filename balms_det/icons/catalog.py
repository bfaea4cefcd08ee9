"""Which icons are classes: families of look-alikes, and the icons that only distract.

A family is a tuple of glyphs that are easily mistaken for one another. Its members are listed
from the one seen most often to the one seen least, so that every family spans the frequency
groups and its rare members have frequent look-alikes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

FAMILIES: dict[str, tuple[str, ...]] = {
    "chess": ("chess-queen", "chess-pawn", "chess-bishop", "chess-king"),
    "car": ("car-hatchback", "car-estate", "car-side", "car-pickup"),
    "glass": ("glass-wine", "glass-flute", "glass-cocktail", "glass-tulip"),
    "ball": ("basketball", "baseball", "volleyball", "tennis-ball"),
    "shoe": ("shoe-sneaker", "shoe-formal", "shoe-cleat", "shoe-heel"),
    "quadruped": ("dog-side", "horse", "donkey", "elephant"),
    "fish": ("fish", "dolphin", "shark", "jellyfish"),
    "bird": ("duck", "bird", "penguin", "turkey"),
    "hat": ("hat-fedora", "hard-hat", "wizard-hat", "chef-hat"),
    "instrument": ("guitar-acoustic", "trumpet", "violin", "bugle"),
    "hand_tool": ("hammer", "axe", "shovel", "pickaxe"),
    "seat": ("sofa", "bench-back", "sofa-single", "stool"),
    "truck": ("truck", "dump-truck", "ambulance", "tow-truck"),
    "insect": ("bee", "bug", "butterfly", "ladybug"),
    "face": ("cat", "pig", "panda", "sheep"),
    # The families above are the default 60 classes.
    "fruit": ("fruit-cherries", "fruit-grapes", "fruit-pear", "fruit-pineapple"),
    "bottle": ("bottle-wine", "bottle-soda", "bottle-tonic", "baby-bottle"),
    "cup": ("cup", "beer", "coffee", "tea"),
    "two_wheeler": ("bicycle", "motorbike", "moped", "scooter"),
    "blade": ("sword", "spear", "knife-military", "box-cutter"),
    "aircraft": ("airplane", "helicopter", "rocket", "airballoon"),
    "lamp": ("lamp", "desk-lamp", "floor-lamp", "lava-lamp"),
    "sweet": ("ice-cream", "cupcake", "ice-pop", "cake"),
    "tree": ("tree", "pine-tree", "palm-tree", "cactus"),
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Parts of a name that mark a variant of another icon, or a sign rather than a thing.
_MODIFIERS = _words(
    "account alert arrow auto badge bottom box cancel check circle clock closed cog cursor disabled"
    " down download edit export eye fast filter heart import key left lock marker message minus"
    " multiple music network off on open outline pause play plus question refresh remove right"
    " search send settings square star stop sync text top up upload variant wireless"
)
_SIGNS = _words(
    "abjad abugida align alpha alphabet animation application arrange arrow axis border brightness"
    " calendar cast chart check checkbox chevron circle close code comma comment content crop"
    " currency cursor database decimal dice dots drag emoticon equal filter fit flip format"
    " fullscreen function gate gender gesture google hexagon home infinity keyboard label language"
    " less math menu microsoft network not null numeric octagon order page pan percent plus"
    " progress quality radiobox rectangle reorder resize rotate rhombus select set shape shield"
    " sigma signal size skip sort source square star step swap syllabary table text timer"
    " transition trending triangle unfold vector view weather wifi window zodiac"
)
DISTRACTORS = _words(
    "arrow-up-bold arrow-left-bold arrow-decision recycle alpha-a alpha-e alpha-k alpha-r alpha-s"
    " numeric-2 numeric-4 numeric-7 pound percent hexagon-outline triangle rhombus octagram"
    " check-bold close-thick plus-thick sigma omega infinity wifi puzzle cog cogs cloud heart"
    " chart-bar chart-pie format-bold sync shape qrcode music-note flash lightning-bolt cube"
    " ampersand at asterisk emoticon-outline shield-half yin-yang"
)


@dataclass(frozen=True)
class IconClass:
    """One class: its LVIS-style name (`chess_king`), its glyph and the family it is mistaken in."""

    name: str
    glyph: str
    family: str


def _more_families(glyph_names: Iterable[str]) -> dict[str, list[str]]:
    """Families by first part of the name, of the glyphs that picture a thing."""
    listed = {glyph for family in FAMILIES.values() for glyph in family} | set(DISTRACTORS)
    families: dict[str, list[str]] = {}
    for glyph in sorted(set(glyph_names) - listed):
        parts = glyph.split("-")
        is_thing = parts[0] not in _SIGNS and not set(parts).intersection(_MODIFIERS)
        if is_thing and re.fullmatch(r"[a-z]{3,}(-[a-z]+)*", glyph):
            families.setdefault(parts[0], []).append(glyph)
    # The largest families first: a class on its own has nothing to be mistaken for.
    return dict(sorted(families.items(), key=lambda item: (-len(item[1]), item[0])))


def build_catalog(num_classes: int, glyph_names: Iterable[str]) -> list[IconClass]:
    """The first `num_classes` classes, family by family.

    The hand-made families come first; beyond them, families are the font's names that share
    their first part.

    Raises:
        ValueError: fewer than 1 class is asked for, or more than the font can give.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    glyph_names = list(glyph_names)
    families = dict(FAMILIES)
    for prefix, glyphs in _more_families(glyph_names).items():
        families[f"{prefix}_icons"] = tuple(glyphs)
    classes = [
        IconClass(glyph.replace("-", "_"), glyph, family)
        for family, glyphs in families.items()
        for glyph in glyphs
    ]
    if num_classes > len(classes):
        raise ValueError(
            f"num_classes is {num_classes}, but the icon font gives {len(classes)} classes"
        )
    return classes[:num_classes]


def frequency_order(classes: list[IconClass]) -> list[IconClass]:
    """The classes from most to least frequent, the members of each family spread evenly."""
    members: dict[str, list[IconClass]] = {}
    for icon in classes:
        members.setdefault(icon.family, []).append(icon)
    placed = []
    for i, family in enumerate(members.values()):
        # An irrational step shifts families against one another without ever repeating.
        shift = (i * 0.6180339887) % 1.0
        placed += [((j + shift) / len(family), icon) for j, icon in enumerate(family)]
    return [icon for _, icon in sorted(placed, key=lambda item: (item[0], item[1].name))]
