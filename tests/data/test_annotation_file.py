"""Reading an annotation file: counts, formats, and errors that say what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balms_det.annotations.read import AnnotationFileError
from balms_det.annotations.summary import summarize
from tests.data.conftest import coco_content, lvis_content


def test_coco_counts_follow_sorted_ids_and_leave_out_crowds(write_dataset):
    summary = summarize(write_dataset(coco_content())[0])
    assert summary.format == "coco"
    assert summary.category_ids == [3, 7, 20]
    assert summary.names == ["cat", "dog", "crowd"]
    assert summary.image_count == [1, 2, 0]
    assert summary.instance_count == [1, 3, 0]
    assert (summary.num_images, summary.frequency) == (3, None)


def test_lvis_names_are_first_synonyms_as_in_detectron2(write_dataset):
    summary = summarize(write_dataset(lvis_content())[0])
    assert summary.format == "lvis"
    assert summary.names == ["cat_1", "dog_1", "crowd_1"]
    assert summary.frequency == ["c", "f", "r"]


def test_colliding_synonyms_fall_back_to_names(write_dataset):
    content = lvis_content()
    for category in content["categories"]:
        category["synonyms"] = ["thing"]
    assert summarize(write_dataset(content)[0]).names == ["cat", "dog", "crowd"]


@pytest.mark.parametrize("where", ["images", "categories"])
def test_one_lvis_key_makes_it_lvis(write_dataset, where):
    content = coco_content()
    content[where][0]["neg_category_ids" if where == "images" else "image_count"] = (
        [] if where == "images" else 3
    )
    assert summarize(write_dataset(content)[0]).format == "lvis"


def test_string_image_ids_nan_and_boolean_crowds_are_read(write_dataset):
    content = coco_content()
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
        annotation["iscrowd"] = bool(annotation["iscrowd"])
        annotation["area"] = float("nan")
    assert summarize(write_dataset(content)[0]).instance_count == [1, 3, 0]


def test_test_set_without_annotations_has_zero_counts(write_dataset):
    content = coco_content()
    del content["annotations"]
    assert summarize(write_dataset(content)[0]).image_count == [0, 0, 0]


def _change(key, index, **values):
    def change(content):
        content[key][index].update(values)

    return change


def _drop(key, index=None, field=None):
    def change(content):
        if index is None:
            del content[key]
        else:
            del content[key][index][field]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("images"), "images"),
        (_drop("categories"), "categories"),
        (_drop("annotations", 0, "category_id"), "category_id"),
        (_drop("categories", 0, "name"), "name"),
        (_change("annotations", 0, category_id=4), "category id 4"),
        (_change("annotations", 0, category_id=99), "category id 99"),
        (_change("annotations", 0, category_id="7"), r"annotations\[.*category_id"),
        (_change("annotations", 3, image_id=77), "image 77"),
        (_change("categories", 0, id=3), "id 3 is listed 2 times in 'categories'"),
        (_change("categories", 0, name="cat"), "name 'cat' is listed 2 times"),
        (_change("images", 0, id=1), "id 1 is listed 2 times in 'images'"),
        (lambda content: content.update(categories=[], annotations=[]), "'categories' is empty"),
        (lambda content: content.update(images=[]), "'images' is empty"),
    ],
)
def test_wrong_content_is_named(write_dataset, change, words):
    content = coco_content()
    change(content)
    path, _ = write_dataset(content)
    with pytest.raises(AnnotationFileError, match=words) as error:
        summarize(path)
    assert path in str(error.value)


def test_wrong_frequency_label_is_named(write_dataset):
    content = lvis_content()
    content["categories"][1]["frequency"] = "rare"
    with pytest.raises(AnnotationFileError, match=r"'cat'.*'rare'"):
        summarize(write_dataset(content)[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n"images": [],\n  2,,', "line 3, column 3"),
        ('{"images": [', "not valid json"),
        ("[]", "object"),
        ("", "empty"),
        ("\ufeff[]", "object"),
    ],
)
def test_broken_text_is_located(write_dataset, text, words):
    path, _ = write_dataset(text)
    with pytest.raises(AnnotationFileError, match=words) as error:
        summarize(path)
    assert path in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "picture.json"
    path.write_bytes(b'{"images": "\xff\xd8\xff"}')
    with pytest.raises(AnnotationFileError, match=r"picture.json"):
        summarize(str(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.json"):
        summarize(str(tmp_path / "absent.json"))


@given(
    annotations=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=30
    )
)
def test_counts_equal_a_plain_count(annotations, tmp_path_factory):
    category_ids = [2, 5, 9, 100]
    content = {
        "images": [{"id": i * 10} for i in range(5)],
        "categories": [{"id": i, "name": str(i)} for i in category_ids],
        "annotations": [
            {"image_id": image * 10, "category_id": category_ids[category], "iscrowd": int(crowd)}
            for image, category, crowd in annotations
        ],
    }
    path = tmp_path_factory.mktemp("counts") / "a.json"
    path.write_text(json.dumps(content))
    summary = summarize(str(path))
    kept = [(image, category) for image, category, crowd in annotations if not crowd]
    assert summary.instance_count == [sum(c == k for _, c in kept) for k in range(4)]
    assert summary.image_count == [len({i for i, c in kept if c == k}) for k in range(4)]
