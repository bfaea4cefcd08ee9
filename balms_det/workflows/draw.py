"""Pictures of detections beside ground truth, drawn from result files; no model is needed.

Colours are frequency groups: red rare, orange common, blue frequent; labels read
"class name (r) 93%". The drawing is Detectron2's ``Visualizer``.

"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_api

from balms_det.annotations.images import locate_images
from balms_det.annotations.masks import rle_to_mask, segmentation_to_rle
from balms_det.report.gallery import read_picture
from balms_det.utils.files import atomic_path
from balms_det.utils.trust import plot_label

# Colours of rare, common and frequent classes.
COLOURS = {"r": (214, 39, 40), "c": (255, 150, 20), "f": (31, 119, 180)}
CELL = 384
HEADER = 30


def draw_comparison(
    json_file: Path,
    image_root: Path,
    results: dict[str, Path],
    target: Path,
    *,
    title: str = "Ground truth",
    num_images: int = 4,
) -> Path:
    """Draw a sheet: a row an image, ground truth in the first column, then one column a result.

    Of each result, as many of the highest-scored detections are drawn as the image has instances.
    Those of the right class and with a box IoU of at least 0.5 have their mask filled, the others
    an outline alone. Colours are frequency groups: red rare, orange common, blue frequent. The
    images are those where the results together find the most rare instances.

    Args:
        json_file: LVIS-format annotations (categories carry ``frequency``).
        image_root: folder of the images.
        results: column title to results file, ``[{image_id, category_id, score, bbox xywh,
            segmentation RLE}]``.
        target: PNG to write.
        title: title of the first column.
        num_images: rows.

    Returns:
        ``target``.

    Raises:
        FileNotFoundError, ValueError: see :func:`balms_det.annotations.images.locate_images`.
    """
    data = json.loads(Path(json_file).read_text())
    categories = {category["id"]: category for category in data["categories"]}
    truth = _by_image([{**a, "right": True} for a in data["annotations"]])
    columns = {title: truth}
    for name, path in results.items():
        columns[name] = _best(_by_image(json.loads(Path(path).read_text())), truth)
    found = list(columns.values())[1:]
    images = sorted(
        data["images"],
        key=lambda image: sum(_rare_hits(column[image["id"]], categories) for column in found),
        reverse=True,
    )[:num_images]
    paths = locate_images(str(json_file), images, str(image_root), "lvis")
    sheet = Image.new("RGB", (CELL * len(columns), HEADER + CELL * len(images)), "white")
    for column, (name, instances) in enumerate(columns.items()):
        ImageDraw.Draw(sheet).text((column * CELL + 6, 6), name, "black", font=_font(16))
        for row, image in enumerate(images):
            cell = _draw_cell(image, paths[row], instances[image["id"]], categories)
            sheet.paste(cell, (column * CELL, HEADER + row * CELL))
    with atomic_path(target) as part:
        sheet.save(part, format="PNG")
    return target


def _by_image(instances: list[dict]) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for instance in instances:
        grouped[instance["image_id"]].append(instance)
    return grouped


def _best(detections: dict[int, list[dict]], truth: dict[int, list[dict]]) -> dict[int, list[dict]]:
    """The highest-scored detections of each image, each with ``right``: does it match the truth."""
    best = defaultdict(list)
    for image_id, instances in truth.items():
        ranked = sorted(detections[image_id], key=lambda d: d["score"], reverse=True)
        for detection in ranked[: len(instances)]:
            same = [i["bbox"] for i in instances if i["category_id"] == detection["category_id"]]
            overlap = mask_api.iou([detection["bbox"]], same, [0] * len(same)) if same else [0]
            best[image_id].append({**detection, "right": bool(np.max(overlap) >= 0.5)})
    return best


def _rare_hits(detections: list[dict], categories: dict) -> int:
    hits = (categories[d["category_id"]]["frequency"] for d in detections if d["right"])
    return sum(frequency == "r" for frequency in hits)


def _draw_cell(image: dict, path: str, instances: list[dict], categories: dict) -> Image.Image:
    picture = read_picture(path, (image["height"], image["width"]))
    scale = CELL / max(picture.size)
    pixels = np.asarray(picture, dtype=np.float32)
    for instance in (i for i in instances if i["right"]):
        rle = segmentation_to_rle(instance["segmentation"], image["height"], image["width"])
        mask = rle_to_mask(rle)
        colour = np.array(COLOURS[categories[instance["category_id"]]["frequency"]])
        pixels = np.where(mask[..., None], 0.55 * pixels + 0.45 * colour, pixels)
    size = (round(picture.width * scale), round(picture.height * scale))
    cell = Image.new("RGB", (CELL, CELL), "white")
    cell.paste(Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS))
    pen = ImageDraw.Draw(cell)
    for instance in sorted(instances, key=lambda i: i.get("score", 1.0)):
        _draw_box(pen, instance, categories[instance["category_id"]], scale)
    return cell


def _draw_box(pen: ImageDraw.ImageDraw, instance: dict, category: dict, scale: float) -> None:
    x, y, width, height = (value * scale for value in instance["bbox"])
    colour = COLOURS[category["frequency"]]
    outline = 3 if instance["right"] else 1
    pen.rectangle((x, y, x + width, y + height), outline=colour, width=outline)
    score = f" {instance['score']:.2f}" if "score" in instance else ""
    label = f"{category['name']}{score}"
    left, top, right, bottom = pen.textbbox((x, max(y - 15, 0)), label, font=_font(12))
    pen.rectangle((left - 2, top - 1, right + 2, bottom + 2), fill=colour)
    pen.text((x, max(y - 15, 0)), label, "white", font=_font(12))


def _font(size: int):
    return ImageFont.load_default(size)


def frequency_metadata(names: Sequence[str], groups: Sequence[str]) -> Metadata:
    """Metadata with which any Visualizer of Detectron2 shows frequency groups.

    Its ``thing_classes`` carry the group, and dollars that are drawn as such; its ``thing_colors``
    are the group's (``ColorMode.SEGMENTATION`` uses them).

    Args:
        names: K class names.
        groups: K frequency groups: "r", "c" or "f".

    Raises:
        ValueError: they are not equally many.
    """
    if len(names) != len(groups):
        raise ValueError(f"{len(names)} class names do not go with {len(groups)} frequency groups")
    return Metadata(
        thing_classes=[f"{plot_label(name)} ({group})" for name, group in zip(names, groups)],
        thing_colors=[COLOURS[group] for group in groups],
    )


class FrequencyVisualizer(Visualizer):
    """A ``Visualizer`` in the colours of frequency groups, through which the image can be seen.

    Args:
        image: (H, W, 3) uint8, RGB.
        metadata: of :func:`frequency_metadata`.
        scale: size of the drawing over that of the image.
    """

    def __init__(self, image: np.ndarray, metadata: Metadata, scale: float = 1.0):
        super().__init__(image, metadata, scale, ColorMode.SEGMENTATION)

    def overlay_instances(self, *, alpha: float = 0.4, **instances):
        """See ``Visualizer.overlay_instances``; masks are at most 40 % opaque."""
        return super().overlay_instances(alpha=min(alpha, 0.4), **instances)


def draw_detections(
    image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """Draw a model's detections.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: ``output["instances"]`` of a model or a ``DefaultPredictor``, on any device.
        metadata: of :func:`frequency_metadata`.
        scale: size of the drawing over that of the image.

    Returns:
        (scale * H, scale * W, 3) uint8, RGB.
    """
    visualizer = FrequencyVisualizer(image, metadata, scale)
    drawn = visualizer.draw_instance_predictions(instances.to("cpu"), jittering=False)
    return drawn.get_image()
