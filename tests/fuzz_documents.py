"""Sound documents, damaged at random but in their own terms: a value of a wrong kind or size, a key
or an entry that is gone or there twice, a text that was cut off."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# `make soak` asks for more, and for others each time.
EXAMPLES = int(os.environ.get("BALMS_DET_FUZZ_EXAMPLES", "0"))
FUZZ = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400, 65535, 65536]),
    st.floats(),
    st.sampled_from([1e300, -0.0, 1e-320, 0.5]),
)
TEXTS = st.one_of(
    st.sampled_from(["", "r", "owl", "1", "part/a.jpg", "../a.jpg", "/etc/hosts", "zz", "\ud800"]),
    st.text(max_size=6),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(NUMBERS, min_size=4, max_size=8),
        st.dictionaries(st.sampled_from(["size", "counts", "id", "x"]), inner, max_size=2),
    ),
    max_leaves=8,
)


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every path of keys and indices into a document, the whole aside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in inside:
        yield (*path, key)
        if isinstance(entry, (dict, list)):
            yield from _places(entry, (*path, key))


@st.composite
def damaged(draw, document: Any) -> Any:
    """The document after one to three changes."""
    content = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            return content
        *path, last = draw(st.sampled_from(places))
        parent = content
        for key in path:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if change == "remove":
            del parent[last]
        elif change == "repeat" and isinstance(parent, list):
            parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(parent[last]))
        else:
            parent[last] = draw(VALUES)
    return content


@st.composite
def damaged_bytes(draw, document: Any) -> bytes:
    """Its json, cut off or with some bytes changed."""
    text = bytearray(json.dumps(document).encode())
    for _ in range(draw(st.integers(0, 3))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text[: draw(st.integers(0, len(text)))])
