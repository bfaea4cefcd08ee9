"""The reader of pictures, one for training, evaluation, prediction and reports.

Pillow decodes, and what it cannot decode whole is an error. (Detectron2's ``read_image`` asks for
the EXIF data before it decodes and swallows every error of that, and a PNG decodes right there: the
pixels after a damaged place come back black.) PNG files carry checksums, which are compared; a JPEG
has none, so that a flipped bit in one may go unnoticed.

Pixels of 8 bits come out as Detectron2 reads them, bit for bit. Colours of 16 bits a channel lose
their lower 8, as Pillow and OpenCV read them; grey of 16 bits, whole numbers of 32 and floats have
no range that says which value is white, and are refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

# What Pillow raises, by the format, for a file that is no picture, or a damaged one.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")
# From red, green, blue in [0, 1] to luminance and colour differences: ITU-R BT.601.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
# Pillow's name of a mode, and what is in such a picture, of those that have no white.
_WITHOUT_WHITE = {
    "F": "floating-point values",
    "I": "grey values of 32 bits (or 16)",
    "I;16": "grey values of 16 bits",
    "I;16L": "grey values of 16 bits",
    "I;16B": "grey values of 16 bits",
    "I;16N": "grey values of 16 bits",
}
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageReadError(OSError):
    """A file that is no picture, a damaged one, or one whose values cannot be taken as colours."""


def read_image(
    path: str | os.PathLike,
    format: str = "BGR",
    open_file: Callable[[str, str], BinaryIO] = open,
) -> np.ndarray:
    """Read a picture, turned as its EXIF data say.

    Args:
        path: the file.
        format: "BGR" or "RGB", (H, W, 3) uint8; "L", grey, (H, W, 1) uint8; "YUV-BT.601",
            (H, W, 3) float32, luminance in [0, 1] and colour differences.
        open_file: opens a path with a mode; for files elsewhere, ``PathManager.open``.

    Raises:
        FileNotFoundError: no such file.
        ImageReadError: it cannot be read as a picture; the message says why, not which file.
    """
    with open_file(os.fspath(path), "rb") as file:
        try:
            picture = _decode(file)
            return convert_pixels(np.asarray(picture.convert("RGB")), format, picture)
        except ImageReadError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageReadError(
                f"it is too large to be read: {error}. Cut it into smaller pictures, or raise "
                "PIL.Image.MAX_IMAGE_PIXELS in Python if you trust it"
            ) from error
        except MemoryError as error:
            raise ImageReadError("there is not enough memory for its pixels") from error
        except DECODER_ERRORS as error:
            raise ImageReadError(str(error) or type(error).__name__) from error


def convert_pixels(rgb: np.ndarray, format: str, picture: Image.Image | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB in the format of :func:`read_image`.

    Args:
        picture: what the pixels come from, where that may be grey already.

    Raises:
        ValueError: an unknown format.
    """
    if format == "RGB":
        return np.array(rgb)
    if format == "BGR":
        return np.ascontiguousarray(rgb[:, :, ::-1])
    if format == "L":
        picture = Image.fromarray(rgb) if picture is None else picture
        return np.array(picture.convert("L"))[:, :, None]
    if format == "YUV-BT.601":
        return (rgb / 255.0 @ _YUV.T).astype(np.float32)
    raise ValueError(f"a picture is read as {', '.join(FORMATS)}, not as {format!r}")


def _decode(file: BinaryIO) -> Image.Image:
    """A whole picture, turned upright.

    Raises:
        ImageReadError, or one of ``DECODER_ERRORS``.
    """
    with Image.open(file) as picture:
        if picture.format == "PNG":
            picture.verify()  # compares checksums, and leaves the picture useless
    file.seek(0)
    picture = Image.open(file)
    picture.load()
    if picture.mode in _WITHOUT_WHITE:
        raise ImageReadError(
            f"it has {_WITHOUT_WHITE[picture.mode]} (mode {picture.mode!r}), and nothing says "
            "which value is white. Convert it to 8 bits first, with the range that you know, for "
            "example PIL.Image.fromarray((values / white * 255).clip(0, 255).astype('uint8'))"
        )
    return _upright(picture)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION)
    except DECODER_ERRORS:  # the pixels are whole, and broken EXIF data turn nothing
        return picture
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture
