"""The dataset and the workspaces that tries begin with, and the flags that make stages small."""

import contextlib
import importlib
import signal
import sys

from benchmarks.torture.judging import clone
from benchmarks.torture.running import REPOSITORY, run
from benchmarks.torture.trials import Torture

sys.path.insert(0, str(REPOSITORY / "tests"))

from conftest import write_image_folder

PAIR = ["--epochs_model", 3]
CORR = ["--alignment", "corr"]
ROBUST = ["--attack_steps", 2]
CURVE = [*PAIR, "--epochs_curve", 2]
PLANE = ["--num_points", 3, "--bn_images", 64]
PAM = [*PAIR, "--alignment", "", "--inner_iters_perm", 2, "--inner_iters_phi", 2, "--lr", 0.5]
PAM_OF_CORR = [*PAIR, *CORR, "--inner_iters_perm", 3, "--inner_iters_phi", 3, "--lr", 0.5]
ROBUST_MATCH = ["--epochs", 2, "--adversarial", "--transform", "Adversarial"]
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
            ("alignment/align_models.py", ROBUST_MATCH, 0),
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
    """Make the dataset and the workspaces; import here what stages import, at first and while they run."""
    write_image_folder(t.images / "bars")
    for folder in ("training", "alignment", "evaluation", "visualization"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
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
