"""Try to break the stages: kill them, damage their files, fill their disk; count what came of it.

No part of `make test`, since it takes minutes: python tests/torture.py --kills 50 --damages 500 --seed 0

Every stage runs in a fork of this process, which has imported everything and has one thread, so that a try takes a
tenth of a second and not three. The exit code is 1 if there was a failure: a traceback, a wrong result, a lost file.
"""

import argparse
import collections
import contextlib
import filecmp
import importlib
import io
import mmap
import os
import pickle
import random
import resource
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start threads, which a fork would not have
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from conftest import write_image_folder
from test_stages import STAGES, same, stage
from tqdm import tqdm

from utils import checkpoint, cli, data
from utils.errors import UserError

TIME_LIMIT = 120  # seconds, after which a stage counts as hanging


# --- running a stage ---------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a run of a stage ended; `code` is negative for a signal."""

    command: str
    code: int
    out: str
    err: str
    seconds: float
    operations: int  # file operations, as `_trap` counts them

    def tail(self, count: int = 6) -> list[str]:
        return [f"exit code {self.code}", *(self.out + self.err).strip().splitlines()[-count:]]


class Process(NamedTuple):
    command: str
    pid: int
    out: int
    err: int
    start: float
    counted: mmap.mmap


def start(script: str, flags: Sequence[object], limit: int | None = None, trap: int = 0, learn: Path | None = None):
    """Fork a process that runs a stage as its command would.

    limit: the largest file that it may write, in bytes. trap: the number of the file operation before which it kills
    itself. learn: where it writes the names of all modules it has imported in the end.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads can hang"
    (out, out_end), (err, err_end), counted = os.pipe(), os.pipe(), mmap.mmap(-1, 8)
    words = [str(flag) for flag in flags]
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(out_end)
        os.close(err_end)
        return Process(shlex.join(["python", script, *words]), pid, out, err, time.monotonic(), counted)
    code = 70
    try:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        sys.argv = [script, *words]
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        _trap(trap, counted)
        try:
            cli.run(*stage(script))
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        if learn is not None:
            learn.write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _trap(number: int, counted: mmap.mmap) -> None:
    """Count the moments at which files change, and die before that of the given number, from 1."""

    def counting(function: Callable) -> Callable:
        def wrapped(*args, **options):
            seen = int.from_bytes(counted[:8], "little") + 1
            counted[:8] = seen.to_bytes(8, "little")
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return wrapped

    for name in ("replace", "rename", "unlink", "fsync", "chmod"):
        setattr(os, name, counting(getattr(os, name)))


def collect(process: Process, kill_after: float | None = None) -> Outcome:
    """Read what a process says until it ends; kill -9 after so many seconds from its start, if it is still there."""
    texts = {process.out: b"", process.err: b""}
    opened = set(texts)
    deadline = process.start + (TIME_LIMIT if kill_after is None else kill_after)
    while opened:
        ready = select.select(list(opened), [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            os.kill(process.pid, signal.SIGKILL)
            deadline = time.monotonic() + TIME_LIMIT
        for descriptor in ready:
            chunk = os.read(descriptor, 1 << 16)
            texts[descriptor] += chunk
            if not chunk:
                opened.remove(descriptor)
                os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    out, err = (texts[descriptor].decode(errors="replace") for descriptor in (process.out, process.err))
    seconds = time.monotonic() - process.start
    return Outcome(process.command, code, out, err, seconds, int.from_bytes(process.counted[:8], "little"))


def run(script: str, flags: Sequence[object], kill_after: float | None = None, **options) -> Outcome:
    return collect(start(script, flags, **options), kill_after)


# --- judging -----------------------------------------------------------------------------------------------


def unlike_a_refusal(outcome: Outcome) -> str | None:
    """What a run that had to be refused did instead of ending with one line and code 1 or 2."""
    if "Traceback" in outcome.out + outcome.err:
        return "a traceback"
    if outcome.code not in (1, 2):
        return f"exit code {outcome.code}"
    count = sum("error:" in line for line in outcome.err.splitlines())
    return None if count == 1 else f"{count} lines of error"


def files_of(root: Path) -> dict[str, Path]:
    """All files under root but hidden ones: locks, and what a killed process was writing."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path for path in paths}


def differences(expected: Path, root: Path, skip: Sequence[str] = (), more: bool = False) -> list[str]:
    """Where the files under two folders differ; drawn figures count by name only. more: `root` may have more."""
    one, other = files_of(expected), files_of(root)
    found = [f"{name} is missing" for name in one.keys() - other.keys() - set(skip)]
    if not more:
        found += [f"{name} is there" for name in other.keys() - one.keys() - set(skip)]
    for name in sorted((one.keys() & other.keys()) - set(skip)):
        drawn = name.startswith("figures/") and name.endswith((".png", ".pdf"))
        if not drawn and not is_same_file(one[name], other[name]):
            found.append(f"{name} differs")
    return found


def is_same_file(one: Path, other: Path) -> bool:
    if os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False):
        return True
    if one.suffix != ".pt":
        return False
    try:
        return same(torch.load(one, weights_only=True), torch.load(other, weights_only=True))
    except Exception:  # a damaged one is not the same
        return False


def rubbish(root: Path) -> list[str]:
    """Files that were being written when it went wrong, and should have been removed."""
    return [str(path) for path in root.rglob(".*") if path.is_file() and path.suffix != ".lock"]


def clone(folder: Path, target: Path, copy: Callable = os.link) -> Path:
    """A copy of a folder, of hard links: all writing here is by renaming, so the original stays as it is."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, copy_function=copy, ignore=shutil.ignore_patterns(".*"))
    return target


@dataclass
class Torture:
    """The folders, the counts and what all tries share."""

    folder: Path
    seed: int
    counts: dict[str, collections.Counter] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    notes: collections.Counter = field(default_factory=collections.Counter)
    failures: int = 0

    @property
    def images(self) -> Path:
        return self.folder / "data"

    @property
    def trial(self) -> Path:
        return self.folder / "trial"

    def flags(self, root: Path, script: str, *more: object, images: Path | None = None) -> list[object]:
        """The flags of a stage on the small dataset, under `root`."""
        if script.startswith("evaluation/make_"):
            return ["--root", root, *more]
        if script.startswith("visualization/"):
            return ["--root", root, "--dataset", "bars", *more]
        flags = ["--root", root, "--dataset", "bars", "--data_path", images or self.images]
        if script.startswith("data/"):
            return [*flags, *more]
        return [*flags, "--batch_size", 32, "--device", "cpu", *more]

    def fresh(self, name: str) -> Path:
        """The folder for the next try, a copy of the workspace of that name."""
        return clone(self.folder / name, self.trial)

    def count(self, section: str, verdict: str, number: int = 1) -> None:
        self.counts[section][verdict] += number

    def fail(self, section: str, words: str, why: str, outcome: Outcome | None = None) -> None:
        """Tell of a failure and keep its folder."""
        self.count(section, "failures")
        self.failures += 1
        print(f"\nFAILURE {self.failures} (--seed {self.seed}), {section}: {words}\n  {why}")
        if outcome is not None:
            print("\n".join(f"  {line}" for line in (outcome.command, *outcome.tail())))
        if self.trial.is_dir() and self.failures <= 50:
            kept = self.folder / f"failure{self.failures}"
            with contextlib.suppress(OSError):
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(self.trial, kept)
                print(f"  its folder as it was left: {kept}")
        sys.stdout.flush()


# --- workspaces --------------------------------------------------------------------------------------------

PAIR = ["--epochs_model", 3]
CORR = ["--alignment", "corr"]
ROBUST = ["--attack_steps", 2]
CURVE = [*PAIR, "--epochs_curve", 2]
PLANE = ["--num_points", 3, "--bn_images", 64]
PAM = [*PAIR, "--alignment", "", "--inner_iters_perm", 2, "--inner_iters_phi", 2, "--lr", 0.5]
PAM_OF_CORR = [*PAIR, *CORR, "--inner_iters_perm", 3, "--inner_iters_phi", 3, "--lr", 0.5]
ROBUST_CURVE = ["--epochs_model", 2, "--epochs_curve", 1, *ROBUST, "--num_points", 3]

# By name: the workspace it goes on from, and what is run in it; a number is that of the file that is not put in its
# place any more, because the process is killed before.
WORKSPACES = {
    "networks": (
        None,
        [
            *(("training/train_model.py", ["--seed", s, "--epochs", 3, "--lr_drop", 1], 0) for s in (1, 2)),
            ("alignment/align_models.py", ["--epochs", 3], 0),
            *(("training/train_model_adversarial.py", ["--seed", s, "--epochs", 2, *ROBUST], 0) for s in (1, 2)),
            ("alignment/align_models.py", ["--epochs", 2, "--adversarial", "--transform", "Adversarial"], 0),
        ],
    ),
    "curves": (
        "networks",
        [
            ("training/train_curve.py", [*PAIR, "--epochs", 2, "--alignment", ""], 0),
            ("training/train_curve.py", [*PAIR, "--epochs", 2, *CORR], 0),
            ("training/train_curve_pam.py", PAM, 0),
            ("training/train_curve_adversarial.py", ["--epochs_model", 2, "--epochs", 1, *ROBUST], 0),
        ],
    ),
    "evaluated": (
        "curves",
        [
            *(
                ("evaluation/eval_curve.py", [*PAIR, "--epochs_curve", e, "--alignment", a, "--num_points", 5], 0)
                for a in ("", "corr")
                for e in (0, 2)
            ),
            *(("evaluation/eval_plane_with_curve.py", [*CURVE, *PLANE, "--alignment", a], 0) for a in ("", "corr")),
            ("evaluation/eval_plane_with_alignment.py", [*PAIR, *PLANE], 0),
            *(("alignment/align_along_curve.py", [*CURVE, "--alignment", a], 0) for a in ("", "corr")),
            ("evaluation/eval_adversarial_curve.py", ROBUST_CURVE, 0),
        ],
    ),
    "drawn": ("evaluated", [("visualization/viz_plane.py", [], 0), ("evaluation/make_report.py", [], 0)]),
    "under way": (
        "curves",
        [
            ("training/train_model.py", ["--seed", 5, "--epochs", 4], 3),
            ("training/train_curve.py", [*PAIR, "--epochs", 5, *CORR, "--resume"], 3),
            ("training/train_curve_pam.py", PAM_OF_CORR, 2),
            ("training/train_model_adversarial.py", ["--seed", 5, "--epochs", 4, *ROBUST], 3),
            ("evaluation/eval_curve.py", [*CURVE, *CORR, "--num_points", 5], 4),
            ("evaluation/eval_plane_with_curve.py", [*CURVE, *PLANE, *CORR], 3),
        ],
    ),
}


def prepare(t: Torture) -> None:
    """Make the dataset and the workspaces; import here what stages import while they run."""
    write_image_folder(t.images / "bars")
    for script in STAGES:
        stage(script)
    t.trial.mkdir()
    known = t.folder / "modules"
    for name, (base, steps) in WORKSPACES.items():
        if base:
            t.fresh(base)
        for script, flags, killed in steps:
            # Files are written by fsync, chmod, replace and a last unlink that finds nothing.
            trap = 4 * (killed - 1) + 3 if killed else 0
            outcome = run(script, t.flags(t.trial, script, *flags), trap=trap, learn=known)
            if outcome.code != (-signal.SIGKILL if killed else 0):
                raise SystemExit("\n".join([outcome.command, *outcome.tail(20)]))
            for module in known.read_text().split("\n") if not killed else ():
                if module not in sys.modules:
                    with contextlib.suppress(Exception):
                        importlib.import_module(module)
        clone(t.trial, t.folder / name)


# --- kill -9 -----------------------------------------------------------------------------------------------

# By script: the workspace, and flags with which it takes seconds. Training goes on with --resume.
KILLED = {
    "training/train_model.py": ("networks", ["--seed", 5, "--epochs", 24, "--save_freq", 7]),
    "training/train_curve.py": (
        "networks",
        [*PAIR, *CORR, "--seed", 5, "--num_bends", 4, "--val_freq", 7, "--epochs", 20],
    ),
    "training/train_curve_pam.py": (
        "networks",
        [*PAIR, *CORR, "--lr", 0.5, "--outer_iters", 2, "--inner_iters_perm", 3, "--inner_iters_phi", 5],
    ),
    "training/train_model_adversarial.py": ("networks", ["--seed", 5, "--epochs", 10, *ROBUST]),
    "training/train_curve_adversarial.py": (
        "networks",
        ["--epochs_model", 2, *CORR, "--epochs", 10, *ROBUST],
    ),
    "evaluation/eval_curve.py": ("curves", [*CURVE, *CORR, "--num_points", 24]),
    "evaluation/eval_plane_with_curve.py": ("curves", [*CURVE, *CORR, "--num_points", 6]),
    "evaluation/eval_plane_with_alignment.py": ("curves", [*PAIR, "--num_points", 6]),
    "alignment/align_models.py": ("networks", ["--epochs", 3, "--align_name", "again"]),
}


def killed_flags(t: Torture, script: str, root: Path) -> list[object]:
    resume = ["--resume"] if script.startswith("training/") else []
    return t.flags(root, script, *KILLED[script][1], *resume)


def undisturbed(t: Torture, script: str) -> tuple[Path, Outcome]:
    """The results of a stage of KILLED that nothing happens to; made once."""
    kept = t.folder / "undisturbed" / Path(script).stem
    if kept not in _undisturbed:
        t.fresh(KILLED[script][0])
        outcome = run(script, killed_flags(t, script, t.trial))
        assert outcome.code == 0, outcome
        _undisturbed[kept] = outcome
        clone(t.trial, kept)
    return kept, _undisturbed[kept]


_undisturbed: dict[Path, Outcome] = {}


def finish_and_compare(t: Torture, section: str, script: str, words: str, tries: int = 1, skip: Sequence[str] = ()):
    """Let the run in the trial folder go on to its end, which must be that of an undisturbed one."""
    expected, _ = undisturbed(t, script)
    outcome = run(script, killed_flags(t, script, t.trial))
    if outcome.code != 0 or "Traceback" in outcome.err:
        return t.fail(section, words, "it did not go on", outcome)
    if different := differences(expected, t.trial, skip):  # tells of a checkpoint or partial table that is left, too
        return t.fail(section, words, "; ".join(different), outcome)
    return t.count(section, "identical", tries)


def kills(t: Torture, count: int) -> None:
    for script in KILLED:
        _, outcome = undisturbed(t, script)
        print(f"  {script}: {outcome.seconds:.1f} s, {outcome.operations} file operations", flush=True)
    for how, number in (("at a random moment", count), ("before a file operation", -(-count // 2))):
        for index, script in enumerate(KILLED):
            share = number // len(KILLED) + (index < number % len(KILLED))
            if share:
                _kill(t, script, how, share)


def _kill(t: Torture, script: str, how: str, share: int) -> None:
    generator = random.Random(f"{t.seed} {how} {script}")
    section = f"kill -9 {how}: {Path(script).stem}"
    workspace, (_, known) = KILLED[script][0], undisturbed(t, script)
    t.fresh(workspace)
    pending: list[str] = []
    while share:
        if how == "at a random moment":
            moment = generator.uniform(0, known.seconds)
            outcome = run(script, killed_flags(t, script, t.trial), moment)
            words = f"after {moment:.3f} s"
        else:
            trap = generator.randint(1, known.operations)
            outcome = run(script, killed_flags(t, script, t.trial), trap=trap)
            words = f"before file operation {trap}"
        if outcome.code == -signal.SIGKILL:
            t.count(section, "tried")
            pending.append(words)
            share -= 1
        elif outcome.code != 0:
            t.fail(section, f"killed {', '.join(pending)}", "it did not go on", outcome)
            t.fresh(workspace)
            pending = []
        if share == 0 or outcome.code == 0:
            if pending:
                finish_and_compare(t, section, script, f"killed {', '.join(pending)}", len(pending))
            t.fresh(workspace)
            pending = []


# --- damage ------------------------------------------------------------------------------------------------

M = "model_dicts/{}/TinyTen/bars/"
D = "model_data/{}/TinyTen/bars/"


class Reader(NamedTuple):
    """A stage that reads a kind of file: a pattern of names under the workspace (or under the data folder)."""

    kind: str
    pattern: str
    workspace: str
    script: str
    flags: Sequence[object]

    @property
    def is_of_images(self) -> bool:
        return self.pattern.startswith("bars/")

    @property
    def is_unsealed(self) -> bool:
        """Whether the format has no checksum, so that another picture is no mistake of ours."""
        return self.pattern.endswith(".png")


def readers() -> list[Reader]:
    """Which scripts read what."""
    ends, robust_ends = "checkpoint_seed_0[12]-3.pt", "checkpoint_seed_0[12]-2.pt"
    models, matches, curves = (M.format(f"{kind}_models") for kind in ("basic", "paired", "curve"))
    robust, robust_curves = M.format("adversarial_models"), M.format("adversarial_curve_models")
    of_corr = "align_corr_seeds_01_02"
    align = ("networks", "alignment/align_models.py", ["--epochs", 3, "--align_name", "again"])
    align_w2 = ("networks", "alignment/align_models_w2.py", ["--epochs", 3])
    train_again = ("networks", "training/train_model.py", ["--seed", 1, "--epochs", 3, "--lr_drop", 1])
    learn = ("networks", "training/train_curve.py", [*PAIR, *CORR, "--epochs", 1])
    pam = (
        "networks",
        "training/train_curve_pam.py",
        [*PAIR, *CORR, "--inner_iters_perm", 1, "--inner_iters_phi", 1],
    )
    longer = ("curves", "training/train_curve.py", [*PAIR, *CORR, "--epochs", 3, "--resume"])
    learn_robust = (
        "networks",
        "training/train_curve_adversarial.py",
        ["--epochs_model", 2, *CORR, "--epochs", 1, *ROBUST],
    )
    along = ("curves", "evaluation/eval_curve.py", [*CURVE, *CORR, "--num_points", 3])
    along_again = ("evaluated", "evaluation/eval_curve.py", [*CURVE, *CORR, "--num_points", 5])
    plane = ("curves", "evaluation/eval_plane_with_curve.py", [*CURVE, *CORR, "--num_points", 2, "--bn_images", 64])
    plane_aligned = (
        "curves",
        "evaluation/eval_plane_with_alignment.py",
        [*PAIR, "--num_points", 2, "--bn_images", 64],
    )
    middle = ("curves", "alignment/align_along_curve.py", [*CURVE, *CORR])
    viz = "visualization/"
    layerwise = "visualization/layerwise_mean_correlation/"
    draw_curve = ("evaluated", viz + "viz_curve.py", ["--epochs", 0, 2])
    draw_on_plane = ("evaluated", viz + "viz_curve_on_plane.py", ["--epochs", 2])
    draw_plane = ("evaluated", viz + "viz_plane.py", [])
    draw_robust = ("evaluated", viz + "viz_adversarial_curve.py", ["--epochs", 1, "--alignment", ""])
    table = ("evaluated", "evaluation/make_tables.py", ["--dataset", "bars"])
    report = ("evaluated", "evaluation/make_report.py", [])
    lines = D.format("curves") + "curve_*.npz"
    robust_lines = D.format("adversarial_curves") + "curve_*.npz"
    pam_names = ("pam_null_seeds_01_02", "align_pam_null_seeds_01_02")
    along_pam = ("curves", "evaluation/eval_curve.py", [*CURVE, "--alignment", "pam_null", "--num_points", 3])
    pam_again = ("curves", "training/train_curve_pam.py", [*PAM, "--resume"])
    going_on = {
        models + "checkpoint_seed_05-resume.pt": ("training/train_model.py", ["--seed", 5, "--epochs", 4]),
        curves + f"checkpoint_{of_corr}-resume.pt": ("training/train_curve.py", [*PAIR, *CORR, "--epochs", 5]),
        curves + "checkpoint_align_pam_corr_*-resume.pt": (
            "training/train_curve_pam.py",
            PAM_OF_CORR,
        ),
        robust + "checkpoint_seed_05-resume.pt": (
            "training/train_model_adversarial.py",
            ["--seed", 5, "--epochs", 4, *ROBUST],
        ),
    }
    train = ("networks", "training/train_model.py", ["--seed", 5, "--epochs", 1])
    of_match = [learn, pam, along, plane_aligned, ("networks", align[1], ["--epochs", 3])]
    cases = {
        "network .pt": {
            models + ends: [align, align_w2, learn, pam, along, plane, plane_aligned, middle, along_again],
            models + ends.replace("[12]", "1"): [train_again],
        },
        "robust network .pt": {
            robust + robust_ends: [
                learn_robust,
                ("curves", "evaluation/eval_adversarial_curve.py", ROBUST_CURVE),
                ("networks", "alignment/align_models.py", WORKSPACES["networks"][1][-1][1]),
            ]
        },
        "curve .pt": {
            curves + f"checkpoint_{of_corr}-2.pt": [along, plane, middle, longer],
            curves + f"checkpoint_{pam_names[1]}-2.pt": [along_pam, pam_again],
            curves + f"checkpoint_{pam_names[1]}_perm1-2.pt": [pam_again],
            robust_curves + "checkpoint_*-1.pt": [("curves", "evaluation/eval_adversarial_curve.py", ROBUST_CURVE)],
        },
        "rolling .pt": {
            pattern: [("under way", script, [*flags, "--resume"])] for pattern, (script, flags) in going_on.items()
        },
        "match .npy": {
            matches + "match_corr_*.npy": of_match,
            matches + f"match_{pam_names[0]}.npy": [along_pam, pam_again],
            M.format("adversarial_paired_models") + "*.npy": [learn_robust],
        },
        "match .json": {
            matches + "match_corr_*.json": of_match,
            matches + f"match_{pam_names[0]}.json": [along_pam, pam_again],
        },
        "history .npy": {
            D.format("training/basic_models") + "*_seed_01.npy": [train_again],
        },
        "history .npz": {
            D.format("training/curve_models") + f"curve_{of_corr}.npz": [draw_curve, report, longer],
        },
        "evaluated .npz": {
            lines: [draw_curve, table, table, report],
            D.format("curves") + f"curve_{of_corr}-2.npz": [along_again, draw_on_plane],
            robust_lines: [
                draw_robust,
                ("evaluated", table[1], ["--adversarial"]),
                report,
                ("evaluated", "evaluation/eval_adversarial_curve.py", ROBUST_CURVE),
            ],
        },
        "partial .npz": {
            D.format("curves") + f"curve_{of_corr}-2.partial.npz": [
                ("under way", "evaluation/eval_curve.py", [*CURVE, *CORR, "--num_points", 5])
            ],
            D.format("loss_planes_with_curve") + f"plane_{of_corr}-2.partial.npz": [
                ("under way", "evaluation/eval_plane_with_curve.py", [*CURVE, *CORR, *PLANE])
            ],
        },
        "plane .npz": {
            D.format("loss_planes_with_curve") + "*.npz": [draw_on_plane, report],
            D.format("loss_planes_with_curve") + f"plane_{of_corr}-2.npz": [
                ("evaluated", plane[1], [*CURVE, *CORR, *PLANE])
            ],
            D.format("loss_planes_with_alignment") + "*.npz": [
                draw_plane,
                ("evaluated", plane_aligned[1], [*PAIR, *PLANE]),
            ],
        },
        "correlation .npy": {
            D.format("paired_models") + "corr_*.npy": [("evaluated", layerwise + "viz_align_models.py", [])]
        },
        "along-curve .npz": {
            D.format("paired_models") + "curve_*.npz": [
                ("evaluated", layerwise + "viz_align_along_curves.py", ["--epochs", 2])
            ],
            D.format("paired_models") + f"curve_{of_corr}-2_*.npz": [("evaluated", middle[1], middle[2])],
        },
        "decoded.npz": {"bars/decoded.npz": [train, along, ("networks", "data/prepare.py", [])]},
        "image of the dataset": {"bars/*/*/*.png": [train, ("networks", "data/prepare.py", [])]},
        "figure .png": {"figures/*.png": [("drawn", report[1], [])]},
    }
    return [
        Reader(kind, pattern, *case)
        for kind, patterns in cases.items()
        for pattern, of_pattern in patterns.items()
        for case in of_pattern
    ]


def damage(path: Path, generator: random.Random) -> str:
    """Truncate a file or change a byte of it, anywhere or where formats have their headers; returns what was done."""
    content = bytearray(path.read_bytes())
    size = len(content)
    path.unlink()  # the content has other names
    if generator.random() < 0.4:
        length = generator.choice([0, generator.randrange(size), size - generator.randint(1, min(size, 600))])
        path.write_bytes(content[:length])
        return f"truncated from {size} to {length} bytes"
    end = generator.choice([size, min(size, 300), -min(size, 600)])
    offset = generator.randrange(end) if end > 0 else size - generator.randint(1, -end)
    old = content[offset]
    content[offset] ^= generator.randint(1, 255)
    path.write_bytes(content)
    return f"byte {offset} of {size} changed from {old:#04x} to {content[offset]:#04x}"


def set_up(t: Torture, reader: Reader) -> tuple[Path, list[object]]:
    """The folder in which the reader's file is, and the flags of the reader."""
    t.fresh(reader.workspace)
    folder = t.trial
    if reader.is_of_images:
        folder = clone(t.images, t.trial / "images")
    images = folder if reader.is_of_images else None
    return folder, t.flags(t.trial, reader.script, *reader.flags, images=images)


def undamaged(t: Torture, reader: Reader) -> tuple[Path, Outcome]:
    """What a reader makes of sound files; made once."""
    key = str((reader.workspace, reader.script, *reader.flags, reader.is_of_images))
    if key not in _undamaged:
        _, flags = set_up(t, reader)
        outcome = run(reader.script, flags)
        assert outcome.code == 0, outcome
        _undamaged[key] = (clone(t.trial, t.folder / "undamaged" / str(len(_undamaged))), outcome)
    return _undamaged[key]


_undamaged: dict[str, tuple[Path, Outcome]] = {}


def judge(t: Torture, section: str, reader: Reader, words: str, path: Path, outcome: Outcome, before: dict) -> None:
    """Count what a reader made of a damaged file: refused, harmless, or a failure. before: files by name, inodes."""
    expected, sound = undamaged(t, reader)
    name = str(path.relative_to(t.trial))
    if outcome.code != 0:
        lost = [name for name, inode in before.items() if not is_there(t.trial / name, inode)]
        if why := unlike_a_refusal(outcome):
            t.fail(section, words, why, outcome)
        elif lost:
            t.fail(section, words, f"it was refused, but changed {', '.join(lost)}", outcome)
        else:
            t.count(section, "refused")
        return
    if "Traceback" in outcome.out + outcome.err:
        t.fail(section, words, "a traceback", outcome)
        return
    told = [line for line in outcome.out.splitlines() if line.startswith("Not in the ")]
    if any(str(path) in line for line in told):
        t.count(section, "refused")
        return
    if reader.is_unsealed:
        t.count(section, "other picture")
        return
    skip = [name] if is_there(path, before[name]) else []  # it was read, or not even that
    different = differences(expected, t.trial, skip)
    if reader.workspace == "evaluated" and outcome.out != sound.out:
        different.append("what it printed differs")
    if different:
        t.fail(section, words, "; ".join(different), outcome)
    else:
        t.count(section, "harmless")


def is_there(path: Path, inode: int) -> bool:
    return path.exists() and path.stat().st_ino == inode


def inodes(root: Path) -> dict[str, int]:
    return {name: path.stat().st_ino for name, path in files_of(root).items()}


def damages(t: Torture, count: int) -> None:
    by_kind = collections.defaultdict(list)
    for reader in readers():
        by_kind[reader.kind].append(reader)
    for index in range(count):
        generator = random.Random(f"{t.seed} damage {index}")
        kind = list(by_kind)[index % len(by_kind)]
        reader = generator.choice(by_kind[kind])
        undamaged(t, reader)
        folder, flags = set_up(t, reader)
        path = generator.choice(sorted(folder.glob(reader.pattern)))
        words = f"damage {index}, {path.relative_to(folder)} {damage(path, generator)}"
        before = inodes(t.trial)
        outcome = run(reader.script, flags)
        section = f"damage: {kind}"
        t.count(section, "tried")
        judge(t, section, reader, words, path, outcome, before)


# --- pickle bombs ------------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def bombs_for(path: Path, mark: Path) -> Iterator[tuple[str, bytes]]:
    """The file with a bomb in it, in every way that its format has a place for one."""
    bomb, stream = Bomb(mark), io.BytesIO()

    def written(write: Callable) -> bytes:
        stream.seek(0)
        stream.truncate()
        write(stream)
        return stream.getvalue()

    yield "a plain pickle", pickle.dumps(bomb)
    if path.suffix == ".pt":
        whole = torch.load(path, weights_only=True)
        states = {
            "beside model_state": whole | {"settings": bomb},
            "in model_state": whole | {"model_state": whole["model_state"] | {"bomb": bomb}},
        }
        for words, state in states.items():
            yield words, written(lambda s, state=state: torch.save(state, s))
            yield (
                f"{words}, legacy format",
                written(lambda s, state=state: torch.save(state, s, _use_new_zipfile_serialization=False)),
            )
    objects = np.array([bomb, bomb], dtype=object)
    if path.suffix == ".npy":
        yield "array of objects", written(lambda s: np.save(s, objects, allow_pickle=True))
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = dict(stored)
        for name in (*list(arrays)[:3], "more"):
            yield f"array {name}", written(lambda s, name=name: np.savez(s, **arrays | {name: objects}))


def bombs(t: Torture) -> None:
    mark = t.folder / "bomb"
    done = collections.Counter()
    for reader in readers():
        done[reader.pattern] += 1
        if reader.pattern.endswith((".png", ".json")) or done[reader.pattern] > 2:
            continue
        undamaged(t, reader)
        folder, _ = set_up(t, reader)
        original = sorted(folder.glob(reader.pattern))[0]
        for words, content in list(bombs_for(original, mark)):
            folder, flags = set_up(t, reader)
            path = sorted(folder.glob(reader.pattern))[0]
            path.unlink()
            path.write_bytes(content)
            before = inodes(t.trial)
            outcome = run(reader.script, flags)
            section = f"pickle bomb: {path.suffix}"
            words = f"{path.relative_to(folder)}: {words}"
            t.count(section, "tried")
            if mark.exists():
                t.fail(section, words, "the bomb went off", outcome)
                mark.rmdir()
            else:
                judge(t, section, reader, words, path, outcome, before)


# --- hostile archives --------------------------------------------------------------------------------------


def archives(t: Torture) -> None:
    """Archives in Tiny ImageNet's form that name places of their own, or are broken."""
    section = "hostile archive"
    top = "tiny-imagenet-200"
    listing = "val_0.JPEG\tn01\t0\t0\t9\t9\n"
    link = zipfile.ZipInfo(f"{top}/train/n01")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    link_image = zipfile.ZipInfo(f"{top}/train/n01/images/link.JPEG")
    link_image.create_system, link_image.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    outside = str(t.folder / "outside")

    def archive(*entries: tuple[str | zipfile.ZipInfo, str], annotations: str | bytes | None = listing) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as made:
            if annotations is not None:
                made.writestr(f"{top}/val/val_annotations.txt", annotations)
            made.writestr(f"{top}/train/n01/images/n01_0.JPEG", "an image")
            made.writestr(f"{top}/val/images/val_0.JPEG", "an image")
            for entry in entries:
                made.writestr(*entry)
        return stream.getvalue()

    sound = archive()
    names = [
        f"{top}/train/../images/up.JPEG",
        f"{top}/train/n01/images/..",
        f"{top}/train/n01/images/../../../../up.JPEG",
        "../../../up.JPEG",
        f"../{top}/train/n01/images/up.JPEG",
        f"{outside}/up.JPEG",
        f"/{top}/train/n01/images/up.JPEG",
        f"/{top}/train//images/{outside}.JPEG",
        f"{top}/train/n01\\..\\../images/up.JPEG",
        f"{top}/train/n01/images/..\\..\\up.JPEG",
        f"{top}/train/.hidden/images/up.JPEG",
        f"{top}/train/C:/images/up.JPEG",
        f"{top}/train/n01/images/\x01up.JPEG",
    ]
    hostile = {f"name {name!r}": archive((name, "up")) for name in names}
    hostile |= {
        "a link for a class": archive((link, outside), (f"{top}/train/n01/images/x.JPEG", "up")),
        "a link for an image": archive((link_image, outside)),
        "annotations with a path": archive(annotations="val_0.JPEG\t../../../up\t0\n"),
        "annotations with an absolute path": archive(annotations=f"val_0.JPEG\t{outside}\t0\n"),
        "annotations in another form": archive(annotations="val_0.JPEG\n"),
        "annotations that are no text": archive(annotations=b"\xff\xfe\xff"),
        "no annotations": archive(annotations=None),
        "no archive": b"something else",
        "an empty file": b"",
    }
    generator = random.Random(f"{t.seed} archives")
    for _ in range(10):
        length = generator.randrange(1, len(sound))
        hostile[f"truncated to {length} of {len(sound)} bytes"] = sound[:length]
    for _ in range(20):
        offset, changed = generator.randrange(len(sound)), bytearray(sound)
        changed[offset] ^= generator.randint(1, 255)
        hostile[f"byte {offset} of {len(sound)} changed to {changed[offset]:#04x}"] = bytes(changed)
    for words, content in hostile.items():
        shutil.rmtree(t.trial, ignore_errors=True)
        target = t.trial / "a" / "b" / "c"
        target.mkdir(parents=True)
        path = t.trial / "archive.zip"
        path.write_bytes(content)
        t.count(section, "tried")
        verdict, why = "harmless", None
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                data.unpack_tiny_imagenet(path, target)
        except UserError as error:
            verdict, why = "refused", None if len(str(error).splitlines()) == 1 else f"not one line: {error}"
        except Exception as error:
            why = f"not a UserError: {error!r}"
        here = [file for file in t.trial.rglob("*") if not file.is_dir() or file.is_symlink()]
        strayed = [file for file in here if file != path and (target not in file.parents or file.is_symlink())]
        if strayed or os.path.lexists(outside) or any(t.folder.glob("*.JPEG")):
            t.fail(section, words, f"it wrote outside the target: {strayed}")
        elif why:
            t.fail(section, words, why)
        else:
            t.count(section, verdict)


# --- disks -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[bool]:
    """Something mounted on a folder; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    there = subprocess.run(["mount", *arguments, str(folder)], capture_output=True).returncode == 0
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(folder)], check=True)


def refused_and_intact(t: Torture, section: str, words: str, outcome: Outcome, workspace: str) -> bool:
    """Count a run that must be refused, with all that was there before as it was."""
    why = unlike_a_refusal(outcome)
    lost = differences(t.folder / workspace, t.trial, more=True)
    if why or lost or rubbish(t.trial):
        t.fail(section, words, why or "; ".join([*lost, *rubbish(t.trial)]), outcome)
        return False
    t.count(section, "refused")
    return True


def full_disk(t: Torture) -> None:
    generator = random.Random(f"{t.seed} full disk")
    for script, (workspace, _) in KILLED.items():
        section = "full disk, by a limit on files"
        expected, _ = undisturbed(t, script)
        made = files_of(expected).keys() - files_of(t.folder / workspace).keys()
        largest = max((expected / name).stat().st_size for name in made)
        for limit in (generator.randrange(largest), largest - 1):
            t.fresh(workspace)
            t.count(section, "tried")
            words = f"{script} with files of {limit} bytes"
            if refused_and_intact(
                t, section, words, run(script, killed_flags(t, script, t.trial), limit=limit), workspace
            ):
                finish_and_compare(t, section, script, words)
        section = "full disk, a small file system"
        room = sum((expected / name).stat().st_size for name in made)
        for part in (generator.uniform(0, 0.5), generator.uniform(0.3, 1.2)):
            _on_small_disk(t, section, script, workspace, round(part * room))


def _on_small_disk(t: Torture, section: str, script: str, workspace: str, free: int) -> None:
    shutil.rmtree(t.trial, ignore_errors=True)
    with mounted(t.trial, "-t", "tmpfs", "-o", "size=64m", "tmpfs") as there:
        if not there:
            t.notes["file systems cannot be mounted here: no small disks, no read-only ones"] = 1
            return
        shutil.copytree(t.folder / workspace, t.trial, dirs_exist_ok=True)
        system = os.statvfs(t.trial)
        used = (system.f_blocks - system.f_bfree) * system.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + free}", str(t.trial)], check=True)
        t.count(section, "tried")
        words = f"{script} with {free} bytes left"
        outcome = run(script, killed_flags(t, script, t.trial))
        if outcome.code == 0 or refused_and_intact(t, section, words, outcome, workspace):
            subprocess.run(["mount", "-o", "remount,size=64m", str(t.trial)], check=True)
            finish_and_compare(t, section, script, words)
    shutil.rmtree(t.trial, ignore_errors=True)


def read_only(t: Torture) -> None:
    for script, (workspace, _) in KILLED.items():
        expected, _ = undisturbed(t, script)
        section = "a file in place of a folder"
        there = {path.relative_to(t.folder / workspace) for path in (t.folder / workspace).rglob("*")}
        made = {Path(name) for name in files_of(expected)} - there
        # The outermost new folder on the way to each new file
        folders = {[p for p in path.parents if p not in there][-2:][0] for path in made if path.parent not in there}
        for folder in sorted(folders):
            t.fresh(workspace)
            t.count(section, "tried")
            words = f"{script} with a file {folder}"
            (t.trial / folder).write_text("a file in place of a folder")
            if refused_and_intact(t, section, words, run(script, killed_flags(t, script, t.trial)), workspace):
                (t.trial / folder).unlink()
                finish_and_compare(t, section, script, words)
        section = "a read-only file system"
        shutil.rmtree(t.trial, ignore_errors=True)
        with mounted(t.trial, "--bind", str(t.folder / workspace)) as there:
            if there:
                subprocess.run(["mount", "-o", "remount,bind,ro", str(t.trial)], check=True)
                t.count(section, "tried")
                outcome = run(script, killed_flags(t, script, t.trial))
                refused_and_intact(t, section, script, outcome, workspace)


# --- two at once, and divergence ---------------------------------------------------------------------------


def at_once(t: Torture) -> None:
    """Two processes with one command: each ends well, or is refused; the result is that of one."""
    generator = random.Random(f"{t.seed} at once")
    section = "two processes at once"
    core = sorted(os.sched_getaffinity(0))
    for script, (workspace, _) in KILLED.items():
        _, known = undisturbed(t, script)
        for delay in (0.0, generator.uniform(0, known.seconds)):
            t.fresh(workspace)
            t.count(section, "tried")
            words = f"{script}, the second {delay:.2f} s later"
            os.sched_setaffinity(0, core[:1])  # both on one core, which interleaves them, and takes no more of it
            first = start(script, killed_flags(t, script, t.trial))
            time.sleep(delay)
            second = start(script, killed_flags(t, script, t.trial))
            os.sched_setaffinity(0, core)
            outcomes = [collect(process) for process in (first, second)]
            wrong = [o for o in outcomes if o.code != 0 and unlike_a_refusal(o)]
            if wrong or all(o.code for o in outcomes):
                t.fail(
                    section, words, "neither ended well" if not wrong else "one ended badly", (wrong or outcomes)[0]
                )
                continue
            for outcome in outcomes:
                if outcome.code:
                    t.count(section, "refused")
                    error = next(line for line in outcome.err.splitlines() if "error:" in line)
                    kind = "another process" if "another process" in error else error
                    t.notes[f"two at once, refused: {kind}"] += 1
            finish_and_compare(t, section, script, words)


def divergence(t: Torture) -> None:
    """A loss that is no number ends training with one line, and the last good epoch is kept."""
    section = "a loss that is no number"
    cases = {
        "training/train_model.py": ["--seed", 5, "--epochs", 5],
        "training/train_curve.py": [*PAIR, *CORR, "--epochs", 5],
        "training/train_curve_pam.py": [
            *PAIR,
            *(*CORR, "--inner_iters_perm", 5, "--inner_iters_phi", 5),
        ],
        "training/train_model_adversarial.py": ["--seed", 5, "--epochs", 5, *ROBUST],
        "training/train_curve_adversarial.py": [
            *("--epochs_model", 2, *CORR, "--epochs", 5),
            *ROBUST,
        ],
    }
    for script, flags in cases.items():
        t.fresh("networks")
        t.count(section, "tried")
        outcome = run(script, t.flags(t.trial, script, *flags, "--lr", "1e30"))
        refused_and_intact(t, section, f"{script} from the first epoch", outcome, "networks")
        if "adversarial" in script:
            continue  # whose schedule never rises
        t.fresh("networks")
        t.count(section, "tried")
        words = f"{script} in a later epoch"
        command = t.flags(t.trial, script, *flags, "--lr", 0.01, "--lr_decay", 1e20, "--resume")
        if not refused_and_intact(t, section, words, run(script, command), "networks"):
            continue
        rolling = list(t.trial.rglob("*-resume.pt"))
        if len(rolling) != 1:
            t.fail(section, words, f"checkpoints that are kept: {rolling}")
            continue
        content = rolling[0].read_bytes()
        state = checkpoint.load_checkpoint(rolling[0], "")
        finite = all(value.isfinite().all() for value in state["model_state"].values())
        again = run(script, command)
        if not finite or unlike_a_refusal(again) or rolling[0].read_bytes() != content:
            t.fail(section, words, "the last good checkpoint is not kept", again)


# --- all of it ---------------------------------------------------------------------------------------------

COLUMNS = ("tried", "refused", "identical", "harmless", "other picture", "failures")


def print_table(t: Torture) -> None:
    width = max(map(len, t.counts), default=0)
    print(f"\n{'':<{width}}" + "".join(f"{column:>15}" for column in COLUMNS))
    for section, counter in t.counts.items():
        print(f"{section:<{width}}" + "".join(f"{counter[column] or '':>15}" for column in COLUMNS))
    total = sum(t.counts.values(), collections.Counter())
    print(f"{'in all':<{width}}" + "".join(f"{total[column]:>15}" for column in COLUMNS))
    for note, number in t.notes.items():
        print(f"{note}" + (f" ({number})" if number > 1 else ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of all stages together")
    parser.add_argument("--damages", type=int, default=500, help="damaged files")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices but the time that things take")
    sections = {
        "kills": lambda: kills(t, args.kills),
        "damages": lambda: damages(t, args.damages),
        "bombs": lambda: bombs(t),
        "archives": lambda: archives(t),
        "full_disk": lambda: full_disk(t),
        "read_only": lambda: read_only(t),
        "at_once": lambda: at_once(t),
        "divergence": lambda: divergence(t),
    }
    parser.add_argument("--only", nargs="+", choices=list(sections), default=list(sections), help="some sections")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread of its own
    begin = time.monotonic()
    t = Torture(Path(tempfile.mkdtemp(prefix="torture-")), args.seed)
    try:
        prepare(t)
        for name in args.only:
            print(f"{name} ({time.monotonic() - begin:.0f} s)", flush=True)
            sections[name]()
    finally:
        print_table(t)
        if not t.failures:
            shutil.rmtree(t.folder)
    print(f"{time.monotonic() - begin:.0f} s, --seed {args.seed}")
    if t.failures:
        print(f"What failed is in {t.folder}")
    return int(t.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
