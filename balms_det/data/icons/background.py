"""What lies behind the icons, and what happens to the picture after they are painted."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from balms_det.data.icons import surfaces
from balms_det.data.icons.style import SceneStyle


def _random_polygon(size: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    radius = size * np.exp(rng.uniform(np.log(0.04), np.log(0.35)))
    center = rng.uniform(0, size, 2)
    reach = radius * rng.uniform(0.5, 1.2, len(angles))
    points = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return [tuple(p) for p in points.tolist()]


def draw_background(size: int, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """A busy background, `(size, size, 3)` float32 in [0, 255]."""
    canvas = surfaces.surface(size, size, surfaces.random_color(rng), style.texture, rng)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.poisson(style.clutter)):
        color = (*surfaces.random_color(rng).clip(0, 255).astype(int).tolist(),)
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
    canvas = canvas * surfaces.ramp(height, width, style.lighting, rng)[..., None]
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
