"""One icon as it appears in a scene: warped, coloured, textured, lit, perhaps out of focus."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from balms_det.data.icons import font, surfaces
from balms_det.data.icons.style import SceneStyle


@dataclass(frozen=True)
class Sprite:
    """An icon to be painted: `rgb` `(h, w, 3)` in [0, 255], `alpha` `(h, w)` in [0, 1]."""

    rgb: np.ndarray
    alpha: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """`(h, w)` bool: where the icon hides at least half of what lies behind."""
        return self.alpha >= 0.5


def _warped_corners(size: float, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """Where the corners of the glyph's square go, `(4, 2)`, their bounding box starting at 1."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    if rng.random() < 0.5:
        corners[:, 0] *= -1
    corners += rng.uniform(-style.perspective, style.perspective, (4, 2)) / 2
    squeeze = np.exp(rng.uniform(-style.stretch, style.stretch) / 2)
    angle = np.deg2rad(rng.uniform(-style.rotation_deg, style.rotation_deg))
    cos, sin = np.cos(angle), np.sin(angle)
    shear = np.array([[1.0, rng.uniform(-style.shear, style.shear)], [0.0, 1.0]])
    warp = np.array([[cos, -sin], [sin, cos]]) @ shear @ np.diag([squeeze, 1 / squeeze])
    corners = corners @ warp.T * size
    return corners - corners.min(0) + 1


def _perspective_coefficients(output: np.ndarray, source: np.ndarray) -> list[float]:
    """Pillow's eight numbers that send output corners to source corners (`(4, 2)` each)."""
    rows, values = [], []
    for (x, y), (u, v) in zip(output, source):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()


def _warped_maps(glyph: str, size: float, style: SceneStyle, rng: np.random.Generator):
    """Ink, body and rim of a warped glyph, each `(h, w)` float32 in [0, 1]."""
    corners = _warped_corners(size, style, rng)
    maps = font.glyph_maps(glyph, size)
    side = maps.width
    square = np.array([[0, 0], [side, 0], [side, side], [0, side]], float)
    width, height = np.ceil(corners.max(0)).astype(int) + 1
    warped = maps.transform(
        (int(width), int(height)),
        Image.Transform.PERSPECTIVE,
        _perspective_coefficients(corners, square),
        Image.Resampling.BILINEAR,
    )
    return np.moveaxis(np.asarray(warped, np.float32) / 255, 2, 0)


def _defocus(rgb: np.ndarray, alpha: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    rgba = np.dstack([rgb, alpha * 255]).clip(0, 255).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(rgba).filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return blurred[..., :3], blurred[..., 3] / 255


def draw_sprite(
    glyph: str,
    size: float,
    style: SceneStyle,
    rng: np.random.Generator,
    *,
    hue: float | None = None,
    scale: float = 1.0,
) -> Sprite:
    """Draw an icon.

    Args:
        glyph: its name in the font.
        size: about its longer side, in pixels.
        hue: its typical hue in [0, 1), which it has with probability `style.typical_color`.
        scale: pixels of the image for one pixel of the style's lengths.
    """
    glyph_share = 1 - 2 * font.MARGIN_PX / font.GLYPH_PX
    ink, body, rim = _warped_maps(glyph, size / glyph_share, style, rng)
    height, width = ink.shape
    typical = hue is not None and rng.random() < style.typical_color
    ink_color = surfaces.color_of_hue(hue, rng) if typical else surfaces.random_color(rng)
    fill_color = surfaces.contrasting_color(ink_color, style.contrast, rng)
    # Light comes before colour: colours then say nothing about how the icon is lit.
    light = surfaces.ramp(height, width, style.lighting, rng)[..., None]
    front = surfaces.surface(height, width, ink_color, style.texture, rng)
    fill = surfaces.surface(height, width, fill_color, style.texture / 2, rng)
    rgb = fill + ink[..., None] * (front - fill)
    alpha = body
    if rng.random() < style.outline:
        rim_color = surfaces.contrasting_color(ink_color, style.contrast, rng).astype(np.float32)
        rgb = rim_color + body[..., None] * (rgb - rim_color)
        alpha = rim
    rgb = np.clip(rgb * light, 0, 255)
    if rng.random() < style.icon_blur:
        rgb, alpha = _defocus(rgb, alpha, rng.uniform(0.3, style.blur_px + 0.3) * scale)
    return Sprite(rgb, alpha)
