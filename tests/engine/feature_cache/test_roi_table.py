"""Rows of a table come from the right shard, and the documentation says how to read them."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from balms_det.features import FeatureCache, RoITable
from balms_det.features.shards import Span, write_shard

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "feature_cache.md").read_text(encoding="utf-8")
CLASSES, SIZES, WIDTHS = 5, (4, 0, 7, 1), (1, 1, 3, 2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A table of four shards, one of them empty, and all its columns in memory."""
    folder, generator = tmp_path_factory.mktemp("table"), torch.Generator().manual_seed(0)
    paths, parts = [], []
    for number, (rois, width) in enumerate(zip(SIZES, WIDTHS)):
        labels = torch.randint(CLASSES + 1, (rois,), generator=generator)
        extra = torch.randint(-1, CLASSES, (rois, width), generator=generator)
        extra[labels == CLASSES] = -1
        columns = {
            "0/features": torch.randn(rois, 3, generator=generator).half(),
            "0/gt_classes": labels.int(),
            "0/ious": torch.rand(rois, generator=generator),
            "0/boxes": torch.rand(rois, 4, generator=generator),
            "0/image": torch.full((rois,), number, dtype=torch.int32),
            "0/objects": torch.arange(rois) + 2**33,
            "0/extra_classes": extra.int(),
        }
        write_shard(folder, Span(number, 0, number, number + 1), "", columns, [(1.0, 2.0)])
        paths.append(folder / f"shard-{number:05d}.safetensors")
        parts.append(columns)
    return RoITable(paths, SIZES, CLASSES, stage=0), parts


@given(index=st.lists(st.integers(0, sum(SIZES) - 1)))
@settings(max_examples=60, deadline=None)
def test_rows_are_in_the_order_of_the_index(shards, index):
    table, parts = shards
    index = torch.tensor(index, dtype=torch.int64)
    for name, read in (("features", table.gather), ("boxes", table.boxes)):
        whole = torch.cat([columns[f"0/{name}"] for columns in parts])
        assert torch.equal(read(index), whole[index])
    carried = torch.zeros(sum(SIZES), CLASSES + 1, dtype=torch.bool)
    row = 0
    for columns in parts:
        for label, extra in zip(columns["0/gt_classes"], columns["0/extra_classes"]):
            carried[row, [int(label), *(c for c in extra.tolist() if c >= 0)]] = True
            row += 1
    assert torch.equal(table.all_classes(index), carried[index, :CLASSES])


def test_columns_in_memory(shards):
    table, parts = shards
    assert len(table) == sum(SIZES)
    for name in ("gt_classes", "image", "ious", "objects"):
        whole = torch.cat([columns[f"0/{name}"] for columns in parts])
        found = getattr(table, name)
        assert torch.equal(found, whole.to(found.dtype))
    assert table.gt_classes.dtype == table.image.dtype == table.objects.dtype == torch.int64


def test_wrong_indices(shards):
    table, index = shards[0], torch.tensor([0, 12])
    with pytest.raises(IndexError, match="numbered from 0 to 11, asked for 0 to 12"):
        table.gather(index)
    with pytest.raises(IndexError, match="asked for -1"):
        table.gather(torch.tensor([-1, 3]))
    with pytest.raises(TypeError, match="vector of int64 on the CPU"):
        table.gather(index.int())
    assert index.tolist() == [0, 12]


def test_documented_columns_are_those_of_a_shard(cached):
    first, second = DOCUMENT.split("A shard for evaluation")
    documented = {name.replace("s/", "0/") for name in re.findall(r"^\| `(s/\w+)`", first, re.M)}
    with safe_open(cached.folder / "shard-00000.safetensors", framework="pt") as shard:
        assert set(shard.keys()) == documented
    assert re.findall(r"^\| `([\w/]+)` \| \(", second, re.M) == [
        *("s/features", "boxes", "proposals", "offsets", "sizes")
    ]


def test_documented_manifest_is_the_manifest(cached):
    table = DOCUMENT.split("## Manifest")[1].split("\n\n`sampled`")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    manifest = FeatureCache.open(cached.folder).manifest
    assert documented == set(vars(manifest))
    entry = re.findall(r"`(\w+)`", table.split("| `shards` |")[1])
    assert set(entry) == set(vars(manifest.shards[0]))


def test_documented_python_runs(cached):
    names = {"index": torch.tensor([3, 1])}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        code = code.replace("output/cache_train", str(cached.folder)).replace("100:200", "1:4")
        exec(compile(code, "docs/feature_cache.md", "exec"), names)
    assert names["features"].shape == (3, 256)
