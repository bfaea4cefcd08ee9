"""Errors about image files that say which entry of which dataset they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def image_errors_name(record: dict) -> Iterator[None]:
    """Turn errors of reading a dataset dict's image into ones that name it.

    Raises:
        FileNotFoundError: the file is not there.
        OSError: it is there and cannot be read as an image.
    """
    path = record.get("file_name")
    image = f"{path!r} (image_id {record.get('image_id')!r})"
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The image {image} does not exist. Check the image root of the dataset (the third "
            "entry of its row in DATASETS.FILES, or $DETECTRON2_DATASETS) and that all images are "
            "in place."
        ) from error
    except OSError as error:
        raise OSError(
            f"The image {image} cannot be read: {error}. Check that the file is whole, for example "
            "by opening it, and put it in place again."
        ) from error
