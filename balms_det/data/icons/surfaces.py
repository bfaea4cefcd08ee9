"""Procedural colours and textures, the same for icons and backgrounds.

A field is a float32 array in [0, 1]; a surface is a float32 `(H, W, 3)` array in [0, 255].
"""

from collections.abc import Callable
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image

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
