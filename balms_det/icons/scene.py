"""Compose one scene: place icons back to front and keep account of what stays visible.

`owner` is an `(H, W)` int array naming the item seen at each pixel; -1 is background. Every
item is opaque, so the owner map gives every instance's visible mask exactly.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from balms_det.annotations.polygons import mask_to_polygons
from balms_det.icons import drawing as background
from balms_det.icons import drawing as surfaces
from balms_det.icons import plan
from balms_det.icons.catalog import DISTRACTORS
from balms_det.icons.drawing import Sprite, draw_sprite
from balms_det.icons.files import SPLITS
from balms_det.icons.style import SceneStyle
from balms_det.utils.files import write_atomically

NO_CLASS = -1
_PLACE_TRIES = 30
_SCENE_TRIES = 4


@dataclass
class Item:
    """Something painted: its class index (or NO_CLASS), and its area were nothing in front."""

    class_index: int
    glyph: str
    hue: float | None = None
    area: int = 0
    center: tuple[float, float] = (0.0, 0.0)


@dataclass
class Scene:
    """A canvas being painted; see the module's docstring for `owner`."""

    canvas: np.ndarray
    style: SceneStyle
    owner: np.ndarray = field(init=False)
    items: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = np.full(self.canvas.shape[:2], -1, np.int16)

    @property
    def scale(self) -> float:
        """Pixels of this scene for one pixel at an image size of 192."""
        return self.owner.shape[0] / 192

    def _window(self, sprite: Sprite, x: int, y: int):
        """Slices of the canvas and of the sprite where they overlap."""
        height, width = self.owner.shape
        h, w = sprite.alpha.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        canvas = (slice(y0, max(y0, y1)), slice(x0, max(x0, x1)))
        return canvas, (slice(y0 - y, max(y0, y1) - y), slice(x0 - x, max(x0, x1) - x))

    def _enough(self, visible: int, item: Item) -> bool:
        least = max(self.style.min_visible * item.area, self.style.min_area * self.scale**2)
        return visible >= least

    def fits(self, item: Item, sprite: Sprite, x: int, y: int) -> bool:
        """Whether the item, painted there, and all classed items behind it stay visible enough."""
        window, part = self._window(sprite, x, y)
        mask = sprite.mask[part]
        if item.class_index != NO_CLASS and not self._enough(int(mask.sum()), item):
            return False
        hidden = self.owner[window][mask]
        hidden = hidden[hidden >= 0]
        if not len(hidden):
            return True
        taken = np.bincount(hidden, minlength=len(self.items))
        return all(
            self._enough(int((self.owner == i).sum()) - int(taken[i]), self.items[i])
            for i in np.flatnonzero(taken)
            if self.items[i].class_index != NO_CLASS
        )

    def paint(self, item: Item, sprite: Sprite, x: int, y: int, shadow: float = 0.0) -> None:
        """Paint a sprite with its upper left corner at (x, y); `shadow` darkens what is behind."""
        if shadow:
            self._cast_shadow(sprite, x, y, shadow)
        window, part = self._window(sprite, x, y)
        alpha = sprite.alpha[part][..., None]
        self.canvas[window] += alpha * (sprite.rgb[part] - self.canvas[window])
        self.owner[window][sprite.mask[part]] = len(self.items)
        h, w = sprite.alpha.shape
        item.center = (x + w / 2, y + h / 2)
        self.items.append(item)

    def _cast_shadow(self, sprite: Sprite, x: int, y: int, strength: float) -> None:
        offset = max(1, round(0.06 * max(sprite.alpha.shape)))
        dark = Image.fromarray((sprite.alpha * 255 * strength).clip(0, 255).astype(np.uint8))
        dark = np.asarray(dark.filter(ImageFilter.BoxBlur(offset)), np.float32) / 255
        window, part = self._window(Sprite(sprite.rgb, dark), x + offset, y + offset)
        self.canvas[window] *= 1 - dark[part][..., None]

    def visible_masks(self) -> dict[int, np.ndarray]:
        """Item index -> `(H, W)` bool visible mask, for the items of a class."""
        return {
            i: self.owner == i for i, item in enumerate(self.items) if item.class_index != NO_CLASS
        }


def _position(scene: Scene, sprite: Sprite, rng: np.random.Generator) -> tuple[int, int]:
    """A random upper left corner, sometimes one that crowds an item already there."""
    height, width = scene.owner.shape
    h, w = sprite.alpha.shape
    if scene.items and rng.random() < scene.style.crowding:
        cx, cy = scene.items[rng.integers(len(scene.items))].center
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * max(h, w)
        cx, cy = cx + reach * np.cos(angle), cy + reach * np.sin(angle)
        return round(cx - w / 2), round(cy - h / 2)
    x = rng.uniform(-0.2 * w, max(1.0, width - 0.8 * w))
    y = rng.uniform(-0.2 * h, max(1.0, height - 0.8 * h))
    return round(x), round(y)


def _add(scene: Scene, item: Item, shrink: float, rng: np.random.Generator) -> bool:
    """Draw an item and paint it where it fits; False if no place was found."""
    style = scene.style
    size = np.exp(rng.uniform(np.log(style.min_px), np.log(style.max_px))) * scene.scale * shrink
    sprite = draw_sprite(item.glyph, float(size), style, rng, hue=item.hue, scale=scene.scale)
    item.area = int(sprite.mask.sum())
    for _ in range(_PLACE_TRIES):
        x, y = _position(scene, sprite, rng)
        if scene.fits(item, sprite, x, y):
            shadow = rng.uniform(0.3, 0.8) if rng.random() < style.shadow else 0.0
            scene.paint(item, sprite, x, y, shadow)
            return True
    return False


def _bar(size: int, rng: np.random.Generator) -> Sprite:
    """A plain strip that hides part of what is behind it."""
    long, thin = round(size * rng.uniform(0.3, 0.9)), round(size * rng.uniform(0.02, 0.07))
    shape = (long, max(2, thin)) if rng.random() < 0.5 else (max(2, thin), long)
    rgb = surfaces.surface(*shape, surfaces.random_color(rng), 0.3, rng)
    return Sprite(rgb, np.ones(shape, np.float32))


def _add_bars(scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(rng.poisson(scene.style.bars)):
        sprite, item = _bar(scene.owner.shape[0], rng), Item(NO_CLASS, "")
        for _ in range(_PLACE_TRIES):
            x, y = _position(scene, sprite, rng)
            if scene.fits(item, sprite, x, y):
                scene.paint(item, sprite, x, y)
                break


def compose(
    classes: list[int],
    looks: list[tuple[str, float]],
    size: int,
    style: SceneStyle,
    rng: np.random.Generator,
) -> Scene:
    """Paint a scene that shows the classes asked for.

    An instance for which no place is found that leaves everything visible enough is left out,
    drawing and annotation alike; a scene that would lose a class altogether is painted again
    with smaller icons.

    Args:
        classes: class indices, one for each instance.
        looks: class index -> its glyph, and the hue in [0, 1) that its family typically has.
        size: height and width, pixels.
    """
    for attempt in range(_SCENE_TRIES):
        scene = Scene(background.draw_background(size, style, rng), style)
        items = [Item(c, *looks[c]) for c in classes]
        for _ in range(rng.poisson(style.distractors)):
            items.append(Item(NO_CLASS, DISTRACTORS[rng.integers(len(DISTRACTORS))]))
        for i in rng.permutation(len(items)):
            _add(scene, items[i], 0.8**attempt, rng)
        _add_bars(scene, rng)
        if {item.class_index for item in scene.items} >= set(classes):
            break
    return scene


@dataclass(frozen=True)
class SplitSpec:
    """What every image of a split has in common."""

    root: Path
    split: str
    looks: list[tuple[str, float]]  # glyph and typical hue of each class
    family: np.ndarray  # (K,) family index of each class
    image_size: int
    seed: int
    style: SceneStyle
    first_id: int


def _annotation(class_index: int, image_id: int, mask: np.ndarray) -> dict:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(xs[0]), int(ys[0])
    return {
        "image_id": image_id,
        "category_id": class_index + 1,
        "bbox": [x, y, int(xs[-1]) + 1 - x, int(ys[-1]) + 1 - y],
        "area": int(mask.sum()),
        "segmentation": mask_to_polygons(mask),
    }


def _choose_unlabelled(scene: Scene, share: float, rng: np.random.Generator) -> set[int]:
    """Items to leave without annotation: never the only one of their class."""
    by_class: dict[int, list[int]] = {}
    for i, item in enumerate(scene.items):
        by_class.setdefault(item.class_index, []).append(i)
    left_out: set[int] = set()
    for class_index, items in sorted(by_class.items()):
        if class_index >= 0 and len(items) > 1 and rng.random() < share:
            left_out.update(items[1:])
    return left_out


def _ids(class_indices) -> list[int]:
    return [int(c) + 1 for c in class_indices]


def render_image(spec: SplitSpec, index: int, classes: list[int]) -> dict:
    """Draw and write image `index` of a split; return `{"image": ..., "annotations": [...]}`.

    The random numbers depend on seed, split and index alone, so that the number of processes
    changes no picture.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(spec.split), index])
    scene = compose(classes, spec.looks, spec.image_size, spec.style, rng)
    unlabelled = _choose_unlabelled(scene, spec.style.unlabelled, rng)
    masks = scene.visible_masks()
    present = {scene.items[i].class_index for i in masks}
    image_id = spec.first_id + index
    name = f"{spec.split}/{index + 1:06d}.jpg"
    write_atomically(spec.root / name, background.photograph(scene.canvas, spec.style, rng))
    image = {
        "id": image_id,
        "width": spec.image_size,
        "height": spec.image_size,
        "file_name": name,
        "coco_url": f"icons_lt/{name}",
        "license": 1,
        "flickr_url": "",
        "date_captured": "2025-01-01 00:00:00",
        "neg_category_ids": _ids(plan.negatives(present, spec.family, rng)),
        "not_exhaustive_category_ids": _ids(
            sorted({scene.items[i].class_index for i in unlabelled})
        ),
    }
    annotations = [
        _annotation(scene.items[i].class_index, image_id, mask)
        for i, mask in masks.items()
        if i not in unlabelled
    ]
    return {"image": image, "annotations": annotations}
