"""Whatever is wrong with an input, the error says which file, key or class, and what to do.

The cases are tables, one a room, in ``tests/bad_input``.
"""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.command_line import describe
from tests.bad_input import datasets, results

TABLES = {"dataset": datasets.CASES, "results": results.CASES}
CASES = [pytest.param(c, id=f"{room}: {c.name}") for room, cs in TABLES.items() for c in cs]


@pytest.fixture(autouse=True)
def own_datasets():
    """Datasets that a case registers are removed."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.mark.parametrize("case", CASES)
def test_it_is_an_error_that_says_what_to_do(case, tmp_path):
    with pytest.raises(case.error) as caught:
        case.run(tmp_path)
    assert caught.type is case.error
    message = describe(caught.value)
    missing = [word for word in case.words if word not in message]
    assert not missing, f"{missing} not in: {message}"


def test_every_case_has_its_own_name_and_words():
    names = [param.id for param in CASES]
    assert len(set(names)) == len(names) >= 80
    assert all(case.words for cases in TABLES.values() for case in cases)
