"""One icon as it appears in a scene: warped, coloured, textured, lit, perhaps out of focus.

A field is a float32 array in [0, 1]; a surface is a float32 `(H, W, 3)` array in [0, 255].

"""

import io
from collections.abc import Callable
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from balms_det.icons import font
from balms_det.icons.style import SceneStyle


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
    ink_color = color_of_hue(hue, rng) if typical else random_color(rng)
    fill_color = contrasting_color(ink_color, style.contrast, rng)
    # Light comes before colour: colours then say nothing about how the icon is lit.
    light = ramp(height, width, style.lighting, rng)[..., None]
    front = surface(height, width, ink_color, style.texture, rng)
    fill = surface(height, width, fill_color, style.texture / 2, rng)
    rgb = fill + ink[..., None] * (front - fill)
    alpha = body
    if rng.random() < style.outline:
        rim_color = contrasting_color(ink_color, style.contrast, rng).astype(np.float32)
        rgb = rim_color + body[..., None] * (rgb - rim_color)
        alpha = rim
    rgb = np.clip(rgb * light, 0, 255)
    if rng.random() < style.icon_blur:
        rgb, alpha = _defocus(rgb, alpha, rng.uniform(0.3, style.blur_px + 0.3) * scale)
    return Sprite(rgb, alpha)


Field = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _along(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))


def _linear(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * _along(x, y, rng)


def _radial(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cx, cy = rng.uniform(-0.7, 0.7, 2).astype(np.float32)
    return np.hypot(x - cx, y - cy)


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wave = np.sin(_along(x, y, rng) * np.float32(rng.uniform(6, 26)))
    return 0.5 + 0.5 * np.clip(wave * rng.choice([1, 4]), -1, 1)


def _checks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = np.float32(rng.uniform(6, 20))
    wave = np.sin(x * rate) * np.sin(y * rate)
    return 0.5 + 0.5 * np.clip(4 * wave, -1, 1)


def _clouds(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = np.broadcast_shapes(x.shape, y.shape)
    cells = int(rng.integers(3, 14))
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _speckle(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)


TEXTURES: tuple[Field, ...] = (_stripes, _checks, _clouds, _clouds, _speckle, _radial)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return x, y


def ramp(height: int, width: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Light that falls off across `(H, W)`: factors between `1 - strength` and about 1.15."""
    x, y = _grid(height, width)
    fall = np.clip(_linear(x, y, rng), 0, 1)
    return 1.15 - (0.15 + strength * rng.random()) * fall


def random_color(rng: np.random.Generator) -> np.ndarray:
    """A colour of the full RGB range, as often pale or dark as saturated."""
    return rng.uniform(0, 255, 3) * rng.uniform(0.3, 1.0) + rng.uniform(0, 60)


def color_of_hue(hue: float, rng: np.random.Generator) -> np.ndarray:
    """A colour near a hue (in [0, 1)), from muted to vivid and from dark to bright."""
    near = (hue + rng.normal(0, 0.02)) % 1
    return 255 * np.array(hsv_to_rgb(near, rng.uniform(0.55, 1.0), rng.uniform(0.45, 1.0)))


def contrasting_color(other: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """A colour at least `distance` from another in RGB, or the best of a few tries."""
    tries = [random_color(rng) for _ in range(6)]
    far = [c for c in tries if np.linalg.norm(c - other) >= distance]
    return far[0] if far else max(tries, key=lambda c: float(np.linalg.norm(c - other)))


def surface(
    height: int, width: int, color: np.ndarray, texture: float, rng: np.random.Generator
) -> np.ndarray:
    """A surface about `color`: plain, a gradient, or (with probability `texture`) textured."""
    color = color.astype(np.float32)
    kind = rng.random()
    if kind >= texture + (1 - texture) / 2:
        return np.broadcast_to(color, (height, width, 3))
    x, y = _grid(height, width)
    change = np.clip(color + rng.normal(0, 45, 3), 0, 255).astype(np.float32) - color
    paint = TEXTURES[rng.integers(len(TEXTURES))] if kind < texture else _linear
    return np.clip(paint(x, y, rng), 0, 1)[..., None] * change + color


def _random_polygon(size: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    radius = size * np.exp(rng.uniform(np.log(0.04), np.log(0.35)))
    center = rng.uniform(0, size, 2)
    reach = radius * rng.uniform(0.5, 1.2, len(angles))
    points = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return [tuple(p) for p in points.tolist()]


def draw_background(size: int, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """A busy background, `(size, size, 3)` float32 in [0, 255]."""
    canvas = surface(size, size, random_color(rng), style.texture, rng)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.poisson(style.clutter)):
        color = (*random_color(rng).clip(0, 255).astype(int).tolist(),)
        opacity = int(rng.integers(60, 256))
        if rng.random() < 0.3:
            ends = rng.uniform(0, size, 4).tolist()
            draw.line(ends, (*color, opacity), width=int(rng.integers(1, max(2, size // 32))))
        else:
            draw.polygon(_random_polygon(size, rng), (*color, opacity))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.0) * size / 192))
    return np.array(image, np.float32)


def photograph(canvas: np.ndarray, style: SceneStyle, rng: np.random.Generator) -> bytes:
    """Light, defocus, sensor noise and JPEG compression of `(H, W, 3)` in [0, 255]."""
    height, width = canvas.shape[:2]
    canvas = canvas * ramp(height, width, style.lighting, rng)[..., None]
    if rng.random() < style.image_blur:
        radius = rng.uniform(0.3, style.blur_px) * height / 192 if style.blur_px > 0.3 else 0
        image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        canvas = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    level = np.float32(rng.uniform(0, style.noise))
    canvas = canvas + level * rng.standard_normal(canvas.shape, dtype=np.float32)
    quality = int(rng.integers(style.jpeg_min, style.jpeg_max + 1))
    stream = io.BytesIO()
    pixels = canvas.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
