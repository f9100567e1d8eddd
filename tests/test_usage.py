"""What a piece of work takes."""

import sys

import numpy as np
import pytest

from utils.usage import usage


def test_seconds_are_there_when_the_work_is_done():
    with usage() as taken:
        assert not taken
    assert taken["seconds"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_memory_is_that_of_the_peak():
    """100 MB that are given back before the end; not those of before, which were more."""
    del (before := [np.ones(2**25)])[:]
    with usage() as taken:
        del (array := [np.ones(100 * 2**17)])[:]
    assert not before and not array
    assert taken["memory"] == pytest.approx(100, abs=10)
