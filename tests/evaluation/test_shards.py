"""Predictions on disk: whole or not there, joined in rank order."""

import json

import pytest

from balms_det.evaluation.evaluator import PredictionShards


@pytest.fixture
def target(tmp_path):
    return tmp_path / "inference" / "results.json"


def write(target, rank, *batches, run="a"):
    shards = PredictionShards(target, rank)
    shards.open(run)
    for batch in batches:
        shards.write(batch)
    return shards


def test_the_shards_of_all_ranks_become_one_list(target):
    second = write(target, 1, [{"a": 3}])
    second.finish()
    first = write(target, 0, [{"a": 1}, {"a": 2.5}], [], [{"b": "x"}])
    first.finish()
    assert first.join(2)
    first.publish()
    assert json.loads(target.read_text()) == [{"a": 1}, {"a": 2.5}, {"b": "x"}, {"a": 3}]
    assert [path.name for path in target.parent.iterdir()] == ["results.json"]


def test_no_prediction_at_all_is_an_empty_list(target):
    shards = write(target, 0, [])
    shards.finish()
    assert not shards.join(1)
    shards.publish()
    assert json.loads(target.read_text()) == []


def test_a_killed_rank_leaves_nothing_that_passes_for_whole(target):
    killed = write(target, 1, [{"a": 3}])
    killed.close()
    first = write(target, 0, [{"a": 1}])
    first.finish()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 ranks are missing.*rank1"):
        first.join(2)
    assert not target.exists()


def test_a_new_evaluation_forgets_the_shards_of_one_that_was_cut_off(target):
    write(target, 0, [{"a": "old"}]).finish()
    shards = write(target, 0, [{"a": "part"}])
    shards.open("a")
    shards.write([{"a": "new"}])
    shards.finish()
    shards.join(1)
    shards.publish()
    assert json.loads(target.read_text()) == [{"a": "new"}]


def test_two_runs_in_one_folder_keep_to_their_own_files(target):
    """The second one starts while the first one writes, and ends while it evaluates."""
    first = write(target, 0, [{"a": 1}], run="a")
    second = write(target, 0, [{"b": 2}], run="b")
    first.write([{"a": 2}])
    for shards in (first, second):
        shards.finish()
        assert shards.join(1)
    second.publish()
    write(target, 0, [{"c": 3}], run="c")
    assert json.loads(first.joined.read_text()) == [{"a": 1}, {"a": 2}]
    assert json.loads(target.read_text()) == [{"b": 2}]
    first.publish()
    assert json.loads(target.read_text()) == [{"a": 1}, {"a": 2}]


def test_what_ended_runs_left_is_removed(target):
    for n, run in enumerate("abc"):
        left = write(target, 0, [{"a": 1}], run=run)
        if n:
            left.finish()
        if n == 2:
            left.join(1)
        left.close()
    shards = write(target, 0, run="d")
    assert [path.name for path in target.parent.iterdir()] == ["results.d.rank0.part"]
    shards.close()
