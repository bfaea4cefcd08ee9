"""Classes are matched by name, or by id: any order is mapped, any other list refused."""

import random

import numpy as np
import pytest

from balms_det.annotations.class_identity import (
    ClassList,
    ClassListError,
    check_same_order,
    class_places,
    reordered,
)

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.mark.parametrize("seed", range(60))
def test_the_same_classes_are_found_and_others_refused(seed):
    """Shuffled, renamed, shortened and lengthened lists of names with ids that mean nothing."""
    draw = random.Random(seed)
    own = draw.sample(NAMES, draw.randint(1, 5))
    other = draw.sample(own, len(own))
    change = draw.choice(["none", "rename", "drop", "add", "twice"])
    if change == "rename":
        other[draw.randrange(len(other))] = "gnu"
    elif change == "drop":
        other.pop()
    elif change == "add":
        other.insert(draw.randrange(len(other) + 1), "gnu")
    elif change == "twice":
        other.append(other[0])
    ids = draw.sample(range(100), len(other))
    wanted = ClassList.of("train.json", own, range(len(own)))
    given = ClassList.of("val.json", other, ids)
    if change == "none":
        places = class_places(wanted, given)
        assert reordered(other, places) == own
        assert sorted(places.tolist()) == list(range(len(own)))
        return
    with pytest.raises(ClassListError) as caught:
        class_places(wanted, given)
    assert "train.json" in str(caught.value) and "val.json" in str(caught.value)


def test_ids_decide_where_one_list_has_no_names():
    named = ClassList.of("a.json", ["x", "y"], [7, 3])
    assert class_places(named, ClassList.of("b.json", ids=[3, 7])).tolist() == [1, 0]
    with pytest.raises(ClassListError, match=r"b\.json has 2 .* a\.json has 2.*alone has 4"):
        class_places(named, ClassList.of("b.json", ids=[4, 7]))


def test_where_nothing_is_known_the_number_decides():
    counted = ClassList("a model", 2)
    assert class_places(counted, ClassList.of("b.json", ["x", "y"])).tolist() == [0, 1]
    with pytest.raises(ClassListError, match="3 classes and a model has 2"):
        class_places(counted, ClassList.of("b.json", ["x", "y", "z"]))


def test_names_that_stand_twice_cannot_be_matched():
    both = ClassList.of("a.json", ["x", "x", "y"])
    assert np.array_equal(class_places(both, both), [0, 1, 2])  # the same list is the same list
    with pytest.raises(ClassListError, match=r"a\.json: two classes have the name 'x'.*b\.json"):
        class_places(both, ClassList.of("b.json", ["y", "x", "x"]))


def test_the_order_where_it_cannot_be_changed():
    own = ClassList.of("a.json", ["x", "y"])
    check_same_order(own, ClassList.of("b.json", ["x", "y"]))
    with pytest.raises(ClassListError, match=r"class 0 is 'x' in a\.json and 'y' in b\.json"):
        check_same_order(own, ClassList.of("b.json", ["y", "x"]))


def test_a_list_says_what_it_knows():
    with pytest.raises(ValueError, match="neither names nor ids"):
        ClassList.of("a.json")
    with pytest.raises(ValueError, match="1 names of 2 classes"):
        ClassList("a.json", 2, ("x",))
    assert reordered(None, [0]) is None
