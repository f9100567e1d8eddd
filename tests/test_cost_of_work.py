"""What a piece of work takes."""

import mmap
import sys

import pytest

from utils.stages.machine import cost


def test_seconds_are_there_when_the_work_is_done():
    with cost() as taken:
        assert not taken
    assert taken["seconds"] > 0


def take(megabytes):
    with mmap.mmap(-1, megabytes * 2**20) as memory:
        for _ in range(megabytes):
            memory.write(b"1" * 2**20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_memory_is_that_of_the_peak():
    """100 MB that are given back before the end; not those of before, which were more.

    They are the system's own, and not what this process has kept of earlier work.
    """
    take(256)
    with cost() as taken:
        take(100)
    assert taken["memory"] == pytest.approx(100, abs=10)
