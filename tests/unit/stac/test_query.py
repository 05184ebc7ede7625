"""Words of a query: boxes, times and names of columns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.common.classes import LabelClass, make_column_names
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.stac.extent import Box, Interval


@pytest.mark.parametrize("box", ["1,2,3", "a,2,3,4", "0,10,1,5", "0,0,181,1", "nan,0,1,1", "0,-91,1,1"])
def test_what_is_no_box_is_refused(box: str) -> None:
    with pytest.raises(InputError, match=r"--bbox: got .*W,S,E,N in degrees"):
        Box.from_text(box)


@pytest.mark.parametrize("interval", ["2026/2025", "2026-13", "summer", "2026-01-01/2026-01-01/2026", "../x"])
def test_what_is_no_time_is_refused(interval: str) -> None:
    with pytest.raises(InputError, match="--datetime: got "):
        Interval.from_text(interval)


@given(
    st.lists(
        st.text(max_size=6) | st.sampled_from(["a b", "a_b", "A-b", "a b 1", "a b 0", "ab", "Ö", "雲", "1"]), max_size=9
    )
)
def test_names_of_columns_are_unlike_and_need_no_quotes(names: list[str]) -> None:
    found = make_column_names([LabelClass(value, name, (0, 0, 0)) for value, name in enumerate(names)])
    assert len(set(found)) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in found)


def test_classes_alike_stay_apart() -> None:
    names = ("cloud shadow", "Cloud-Shadow", "land")
    classes = [LabelClass(value, name, (0, 0, 0)) for value, name in enumerate(names)]
    assert make_column_names(classes) == ("cloud_shadow_0", "cloud_shadow_1", "land")
