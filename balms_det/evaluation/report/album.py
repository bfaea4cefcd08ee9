"""The pictures and outlines that a page holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from balms_det.data.image_reader import read_image
from balms_det.evaluation.report.crops import Region, grid_size

ENTRY_BYTES = 64  # an example's own json, about


@dataclass
class Album:
    """Pictures and outlines, each stored once.

    Attributes:
        pictures: (data URI, width, height), the sizes in units of the outlines' grid.
        outlines: SVG paths.
        size: bytes that they and the examples take in the page, about.
        picture_size: bytes of the pictures alone.
    """

    pictures: list[tuple[str, int, int]] = field(default_factory=list)
    outlines: list[str] = field(default_factory=list)
    size: int = 0
    picture_size: int = 0

    def add_picture(self, uri: str, region: Region) -> int:
        self.pictures.append((uri, *grid_size(region)))
        self.size += len(uri)
        self.picture_size += len(uri)
        return len(self.pictures) - 1

    def add_outline(self, path: str) -> int:
        self.outlines.append(path)
        self.size += len(path)
        return len(self.outlines) - 1


def read_picture(path: str, size: tuple[int, int]) -> Image.Image:
    """Read an image as RGB, as training and evaluation read it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read or is not of ``size`` (height, width).
    """
    try:
        picture = Image.fromarray(read_image(path, "RGB"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    if picture.size != size[::-1]:
        raise ValueError(
            f"{path} is {picture.width} x {picture.height} pixels, the annotations say "
            f"{size[1]} x {size[0]}: is it the image root of this dataset?"
        )
    return picture
