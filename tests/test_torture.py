"""benchmarks/torture in a short form, and what it takes for the same; full disks, and one command twice at once."""

import contextlib
import json
import re
import resource
import sys

import numpy as np
import processes
import pytest
import torch
from stages import REPOSITORY, fails, run

from benchmarks.torture import damages, judging

SEED, KILLS, DAMAGES = 1, 12, 30


@pytest.mark.long
def test_a_short_form():
    """Of each kind of file a few are damaged; every try ends in a way that is meant."""
    command = [sys.executable, "benchmarks/torture", "--kills", KILLS, "--damages", DAMAGES, "--seed", SEED]
    ended = processes.run(*command, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"--kills {KILLS} --damages {DAMAGES} --seed {SEED}" in ended.stdout
    total, *ends = map(int, re.search(r"^in all +(.*)$", ended.stdout, re.MULTILINE)[1].split())
    assert total == sum(ends) > DAMAGES
    assert len(ends) >= 3


def test_results_are_compared_and_not_what_they_cost(tmp_path):
    def write(folder, rate=0.1, seconds=1.0, weight=1.0, loss=(0.5, np.nan)):
        folder.mkdir()
        settings = {"lr": rate, "cost": {"seconds": seconds, "memory": 2 * seconds}}
        np.savez(folder / "t.npz", loss=np.array(loss), settings=np.array(json.dumps(settings)))
        torch.save({"w": torch.full((2,), weight), "settings": settings, "history": list(loss)}, folder / "c.pt")
        np.save(folder / "s.npy", np.array(loss))
        return folder

    one = write(tmp_path / "one")
    assert judging.differences(one, write(tmp_path / "again", seconds=9.0)) == []
    assert judging.differences(one, write(tmp_path / "rate", rate=0.2)) == ["c.pt differs", "t.npz differs"]
    assert judging.differences(one, write(tmp_path / "weight", weight=1.0 + 2**-23)) == ["c.pt differs"]
    other = write(tmp_path / "loss", loss=(0.5, 0.5))
    assert judging.differences(one, other) == ["c.pt differs", "s.npy differs", "t.npz differs"]
    (other / "c.pt").write_bytes(b"damaged")
    (other / "s.npy").unlink()
    (other / ".t.npz.tmp").touch()
    found = ["s.npy is missing", ".t.npz.tmp is left", "c.pt differs", "t.npz differs"]
    assert judging.differences(one, other) == found


STAGE = ("training/train_model.py", "--epochs", "3", "--resume")


@pytest.mark.parametrize(
    "said, moved, instead, first",
    [
        ("is not a checkpoint; move it away, and run the same command again", True, STAGE, None),
        ("holds another match; replace it with --overwrite", False, (*STAGE[:3], "--overwrite"), None),
        (
            f"is damaged; move it away, and make it anew with: python {REPOSITORY}/training/train_model.py --seed 1",
            True,
            None,
            ("training/train_model.py", "--seed", "1"),
        ),
        (
            "is not finished; go on with: .venv/bin/python evaluation/eval_plane_with_curve.py --root r",
            False,
            None,
            ("evaluation/eval_plane_with_curve.py", "--root", "r", "--num_points", "2"),
        ),
        ("holds images of 3 sizes", False, None, None),
    ],
)
def test_advice_is_taken_word_for_word(said, moved, instead, first, tmp_path):
    advice = damages.advice(f"{tmp_path}/file {said}", STAGE)
    assert advice == (tmp_path / "file" if moved else None, instead, first)


@contextlib.contextmanager
def files_of_at_most(size):
    """In this block a file that grows beyond so many bytes is as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(flags, tmp_path, capsys):
    """One line, nothing half-written; and when there is room the run ends as one that always had it."""
    command = ["training/train_model.py", *flags, "--epochs", 2, "--seed", 1]
    fresh, root = tmp_path / "fresh", tmp_path / "full"
    run(*command, "--root", fresh)
    with files_of_at_most(100_000):
        code, line = fails(capsys, *command, "--root", root)
    assert code == 1
    assert "-resume.pt: File too large" in line
    assert {path.suffix for path in root.rglob("*") if path.is_file()} <= {".lock"}  # which this process still has
    run(*command, "--root", root, "--resume")
    assert judging.differences(fresh, root) == []


def test_one_command_twice_at_once(flags, tmp_path, warm_python):
    """One of the two trains; the other says so or finds the result."""
    command = ["training/train_model.py", *flags, "--epochs", 4, "--seed", 1, "--resume", "--device", "cpu"]
    run(*command, "--root", tmp_path / "alone")
    both = [warm_python, *command, "--root", tmp_path / "both"]
    with processes.started(*both, cwd=REPOSITORY) as first, processes.started(*both, cwd=REPOSITORY) as second:
        errors = [processes.finish(process)[1] for process in (first, second)]
    codes = [process.returncode for process in (first, second)]
    assert min(codes) == 0
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or (code == 1 and re.fullmatch(r".*error: .* is writing .*\n", error)), error
    assert judging.differences(tmp_path / "alone", tmp_path / "both") == []
