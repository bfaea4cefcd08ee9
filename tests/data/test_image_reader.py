"""Pictures are read as Detectron2 reads them, or refused by name; damaged ones are errors."""

import struct
import zlib

import numpy as np
import pytest
from data_fixtures import annotation, record, small_config
from detectron2.data import detection_utils
from PIL import Image

from balms_det.annotations.image_reader import FORMATS, ImageReadError, convert_pixels, read_image
from balms_det.data.mapper import RepeatFactorDatasetMapper, StrictDatasetMapper

PIXELS = np.random.default_rng(3).integers(0, 256, (12, 17, 3), np.uint8)


def saved(path, picture, **kwargs):
    picture.save(path, **kwargs)
    return path


def pictures(folder):
    """Ordinary files, of the kinds of 8 bits."""
    picture = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    yield saved(folder / "a.png", picture)
    yield saved(folder / "a.jpg", picture)
    yield saved(folder / "turned.jpg", picture, exif=exif)
    yield saved(folder / "a.tif", picture)
    yield saved(folder / "a.webp", picture, lossless=True)
    for mode in ("L", "LA", "RGBA", "P", "1"):
        yield saved(folder / f"{mode}.png", picture.convert(mode))
    yield saved(folder / "CMYK.jpg", picture.convert("CMYK"))


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_are_those_that_detectron2_reads(tmp_path, format):
    for path in pictures(tmp_path):
        theirs = detection_utils.read_image(str(path), format)
        ours = read_image(path, format)
        assert ours.dtype == (np.float32 if format.startswith("YUV") else np.uint8)
        atol = 1e-7 if format.startswith("YUV") else 0  # sums in another order
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=path.name)


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_read_as_bgr_is_converted_as_what_is_read_so(tmp_path, format):
    path = saved(tmp_path / "a.png", Image.fromarray(PIXELS))
    converted = convert_pixels(read_image(path)[:, :, ::-1], format)
    np.testing.assert_allclose(converted, read_image(path, format), rtol=0, atol=1e-7)


def test_no_flipped_bit_of_a_png_goes_unnoticed(tmp_path):
    """Every bit that holds pixels; those of comments may be anything."""
    path = saved(tmp_path / "a.png", Image.fromarray(PIXELS[:6, :6]))
    whole, pixels = path.read_bytes(), read_image(path)
    start = whole.index(b"IDAT")
    (length,) = struct.unpack(">I", whole[start - 4 : start])
    for place in range(start, start + 4 + length + 4):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ImageReadError):
                read_image(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.gif", "a.bmp"])
def test_a_file_that_was_cut_off_is_an_error(tmp_path, name):
    path = saved(tmp_path / name, Image.fromarray(np.tile(PIXELS, (9, 9, 1))))
    whole = path.read_bytes()
    for share in (0, 0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageReadError):
            read_image(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", np.full((4, 4), 4095, np.uint16)),
        ("a.tif", np.full((4, 4), 4095, np.uint16)),
        ("b.tif", np.full((4, 4), 70_000, np.int32)),
        ("c.tif", np.full((4, 4), 0.5, np.float32)),
    ],
)
def test_values_without_a_white_are_refused(tmp_path, name, values):
    path = saved(tmp_path / name, Image.fromarray(values))
    with pytest.raises(ImageReadError, match=r"values.*8 bits"):
        read_image(path)


def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def test_a_picture_beyond_all_memory_is_named(tmp_path):
    path = tmp_path / "huge.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    item = {"file_name": str(path), "image_id": 4, "height": 60_000, "width": 60_000}
    with pytest.raises(OSError, match=r"huge\.png' \(image_id 4\).*too large.*smaller pictures"):
        StrictDatasetMapper(small_config(), is_train=False)(item)


def test_colours_of_16_bits_keep_their_higher_8(tmp_path):
    import cv2

    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), PIXELS[:, :, ::-1].astype(np.uint16) * 256 + 255)
    np.testing.assert_array_equal(read_image(path, "RGB"), PIXELS)


def test_a_mapper_names_a_damaged_picture(tmp_path):
    still = record(tmp_path / "a.png", PIXELS, [annotation(0, (2, 2, 9, 9))], image_id=8)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IDAT") + 30] ^= 16
    (tmp_path / "a.png").write_bytes(data)
    for mapper in (StrictDatasetMapper, RepeatFactorDatasetMapper):
        with pytest.raises(OSError, match=r"a\.png' \(image_id 8\) cannot be read"):
            mapper(small_config(), is_train=True)(dict(still))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_mapped_to_what_a_model_takes(tmp_path, format):
    cfg = small_config()
    cfg.INPUT.FORMAT = format
    still = record(tmp_path / "a.png", PIXELS, [annotation(0, (2, 2, 9, 9))])
    carried = {"repeat": 1, "num_repeats": 3}
    image = RepeatFactorDatasetMapper(cfg, is_train=True)({**still, **carried})["image"]
    assert image.shape[0] == (1 if format == "L" else 3)
    assert image.dtype.itemsize in (1, 4)  # uint8, or a float that convolutions take
