"""Disks that are full or read-only, and files in the place of folders."""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.torture.judging import files_of
from benchmarks.torture.kills import LONG, expect_intact, finish, long_flags, undisturbed
from benchmarks.torture.running import run
from benchmarks.torture.trials import Torture


@contextlib.contextmanager
def mounted(t: Torture, *arguments: str) -> Iterator[bool]:
    """Something mounted on the trial folder; False where that is not allowed."""
    shutil.rmtree(t.trial, ignore_errors=True)
    t.trial.mkdir()
    there = subprocess.run(["mount", *arguments, str(t.trial)], capture_output=True).returncode == 0
    if not there:
        t.notes["file systems cannot be mounted here: no small disks, no read-only ones"] = 1
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(t.trial)], check=True)
            shutil.rmtree(t.trial)


def _remount(t: Torture, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(t.trial)], check=True)


def full_disk(t: Torture) -> None:
    generator = random.Random(f"{t.seed} full disk")
    for script, (workspace, _) in LONG.items():
        expected, _ = undisturbed(t, script)
        made = files_of(expected).keys() - files_of(t.folder / workspace).keys()
        sizes = [(expected / name).stat().st_size for name in made]
        for limit in (generator.randrange(max(sizes)), max(sizes) - 1):
            words = f"{script} with files of {limit} bytes"
            t.attempt("full disk, by a limit on files", words, partial(_with_limit, t, script, limit))
        for part in (generator.uniform(0, 0.5), generator.uniform(0.3, 1.2)):
            _on_small_disk(t, script, round(part * sum(sizes)))


def _with_limit(t: Torture, script: str, limit: int) -> str:
    workspace = LONG[script][0]
    t.fresh(workspace)
    expect_intact(t, workspace, run(script, long_flags(t, script), limit=limit))
    return finish(t, script)


def _on_small_disk(t: Torture, script: str, free: int) -> None:
    with mounted(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs") as there:
        if there:
            shutil.copytree(t.folder / LONG[script][0], t.trial, dirs_exist_ok=True)
            system = os.statvfs(t.trial)
            used = (system.f_blocks - system.f_bfree) * system.f_frsize
            _remount(t, f"size={used + free}")
            words = f"{script} with {free} bytes left"
            t.attempt("full disk, a small file system", words, partial(_until_full, t, script))


def _until_full(t: Torture, script: str) -> str:
    """Run a stage, which may find room enough; then make room."""
    outcome = run(script, long_flags(t, script))
    if outcome.code != 0:
        expect_intact(t, LONG[script][0], outcome)
    _remount(t, "size=64m")
    return finish(t, script)


def read_only(t: Torture) -> None:
    for script, (workspace, _) in LONG.items():
        for folder in _new_folders(t, script):
            words = f"{script} with a file {folder}"
            t.attempt("a file in place of a folder", words, partial(_in_place_of, t, script, folder))
        with mounted(t, "--bind", str(t.folder / workspace)) as there:
            if there:
                _remount(t, "bind,ro")
                t.attempt("a read-only file system", script, partial(_read_only, t, script))


def _new_folders(t: Torture, script: str) -> list[Path]:
    """The outermost new folder on the way to each file that a stage makes."""
    expected, _ = undisturbed(t, script)
    before = t.folder / LONG[script][0]
    there = {path.relative_to(before) for path in before.rglob("*")}
    made = {Path(name) for name in files_of(expected)} - there
    return sorted({[p for p in path.parents if p not in there][-2:][0] for path in made if path.parent not in there})


def _in_place_of(t: Torture, script: str, folder: Path) -> str:
    workspace = LONG[script][0]
    t.fresh(workspace)
    (t.trial / folder).write_text("a file in place of a folder")
    expect_intact(t, workspace, run(script, long_flags(t, script)))
    (t.trial / folder).unlink()
    return finish(t, script)


def _read_only(t: Torture, script: str) -> str:
    expect_intact(t, LONG[script][0], run(script, long_flags(t, script)))
    return "refused"
