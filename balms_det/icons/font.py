"""Icon artwork: the glyphs of the Material Design Icons font as small grey masks.

The font comes from the PyPI package `fonticon-materialdesignicons7` (Apache-2.0). Only its
`.ttf` is read: importing that package's Qt side is never needed.

Symbols: `ink` is the printed part of a glyph, `body` its silhouette with narrow gaps and holes
filled, `rim` the body grown by a thin border. All are 8-bit masks on a GLYPH_PX square.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT_PACKAGE = "fonticon-materialdesignicons7"
_MODULE = "fonticon_mdi7"
_TTF = "fonts/materialdesignicons-webfont.ttf"

GLYPH_PX = 144
MARGIN_PX = 10
_GAP_PX = 3  # gaps of an icon narrower than twice this belong to its body
_RIM_PX = 4
_MIP_PX = (144, 104, 72, 52, 36, 26)


def font_path() -> Path:
    """Path of the icon font's file.

    Raises:
        ImportError: the font package is not installed.
        FileNotFoundError: it is installed, but without its font file.
    """
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"icons_lt draws the icons of the font package {FONT_PACKAGE}, which is not "
            f"installed. Run: pip install {FONT_PACKAGE}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / _TTF
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Run: pip install --force-reinstall {FONT_PACKAGE}"
        )
    return path


@functools.lru_cache(maxsize=1)
def glyph_codes() -> dict[str, int]:
    """Glyph name -> code point, sorted by name, for every icon of the font."""
    from fontTools.ttLib import TTFont

    with TTFont(font_path(), lazy=True) as font:
        codes = {name: code for code, name in sorted(font.getBestCmap().items(), reverse=True)}
    return dict(sorted(codes.items()))


@functools.lru_cache(maxsize=1)
def _image_font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path()), GLYPH_PX)


def _draw_ink(glyph: str) -> Image.Image:
    """The glyph, its longer side scaled to the square less its margin, centred."""
    try:
        char = chr(glyph_codes()[glyph])
    except KeyError:
        raise KeyError(f"The icon font has no glyph named {glyph!r}") from None
    canvas = Image.new("L", (2 * GLYPH_PX, 2 * GLYPH_PX))
    ImageDraw.Draw(canvas).text((GLYPH_PX, GLYPH_PX), char, 255, font=_image_font(), anchor="mm")
    ink = canvas.crop(canvas.getbbox())
    scale = (GLYPH_PX - 2 * MARGIN_PX) / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.BICUBIC)
    square = Image.new("L", (GLYPH_PX, GLYPH_PX))
    square.paste(ink, ((GLYPH_PX - ink.width) // 2, (GLYPH_PX - ink.height) // 2))
    return square


def _fill_holes(solid: np.ndarray) -> np.ndarray:
    """Boolean mask with every region that the border cannot reach filled."""
    outside = np.zeros_like(solid)
    outside[[0, -1]] = outside[:, [0, -1]] = True
    count = 0
    while count != (count := int(outside.sum())):
        for _ in range(8):
            grown = outside.copy()
            grown[1:] |= outside[:-1]
            grown[:-1] |= outside[1:]
            grown[:, 1:] |= outside[:, :-1]
            grown[:, :-1] |= outside[:, 1:]
            outside = grown & ~solid
    return ~outside


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Grey dilation by a square of side `2 * radius + 1`, one axis after the other."""
    for axis in (0, 1):
        padded = np.pad(mask, [(radius, radius) if i == axis else (0, 0) for i in (0, 1)])
        shifts = [padded.take(range(i, i + mask.shape[axis]), axis) for i in range(2 * radius + 1)]
        mask = np.maximum.reduce(shifts)
    return mask


@functools.lru_cache(maxsize=2048)
def _glyph_maps(glyph: str) -> Image.Image:
    ink = _draw_ink(glyph)
    pixels = np.asarray(ink)
    filled = _fill_holes(_grow(pixels, _GAP_PX) > 127)
    closed = 255 * (~_grow(~filled, _GAP_PX)).astype(np.uint8)
    smooth = ImageFilter.GaussianBlur(0.8)
    body = np.maximum(closed, pixels)
    rim = Image.fromarray(_grow(body, _RIM_PX)).filter(smooth)
    return Image.merge("RGB", (ink, Image.fromarray(body).filter(smooth), rim))


@functools.lru_cache(maxsize=4096)
def _mip(glyph: str, side: int) -> Image.Image:
    maps = _glyph_maps(glyph)
    if side == GLYPH_PX:
        return maps
    return maps.resize((side, side), Image.Resampling.BOX)


def glyph_maps(glyph: str, size_px: float) -> Image.Image:
    """Ink, body and rim of a glyph as the three channels of one square picture.

    Args:
        glyph: its name in the font.
        size_px: the size it will be shown at; the picture returned is the smallest stored one
            that is not smaller, so that drawing it neither aliases nor blurs.

    Raises:
        KeyError: the font has no such glyph.
    """
    side = min((mip for mip in _MIP_PX if mip >= size_px), default=GLYPH_PX)
    return _mip(glyph, side)
