"""What is tortured: a small dataset, a workspace of every kind of file, and the stages that make and read them."""

import functools
import re
import shlex
import signal
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.torture.judging import Tries, clone
from benchmarks.torture.running import Outcome, run

CORR, NULL = "--epochs_model 2 --alignment corr", "--epochs_model 2 --alignment ''"
PAM_NULL = "--epochs_model 2 --alignment pam_null"
NETWORK = "training/train_model.py"
ROBUST_NETWORK = "training/train_model_adversarial.py --attack_steps 1"
CURVE = f"training/train_curve.py {CORR}"
ROBUST_CURVE = "training/train_curve_adversarial.py --epochs_model 1 --alignment '' --attack_steps 1"
PAM = "training/train_curve_pam.py --lr 0.5 --inner_iters_perm 2 --inner_iters_phi 2"
ALIGN = "alignment/align_models.py --epochs 2"
MIDDLE = f"alignment/align_along_curve.py {CORR} --epochs_curve 2"
EVALUATE = "evaluation/eval_curve.py --epochs_curve 2 --num_points 3"
EVALUATE_ROBUST = (
    "evaluation/eval_adversarial_curve.py --epochs_model 1 --epochs_curve 1 --alignment '' --num_points 3"
)
PLANE = "evaluation/eval_plane_with_curve.py --epochs_curve 2 --num_points 2 --bn_images 48"
ALIGNED_PLANE = f"evaluation/eval_plane_with_alignment.py {CORR} --num_points 2 --bn_images 48"
DRAW, LAYERS = "visualization/viz_curve.py --epochs 2", "visualization/layerwise_mean_correlation"
REPORT = "evaluation/make_report.py"

# What the workspace holds
MADE = (
    *("data/prepare.py", f"{NETWORK} --seed 1 --epochs 2", f"{NETWORK} --seed 2 --epochs 2", ALIGN),
    *(f"{CURVE} --epochs 2", f"{PAM} {NULL}", f"{EVALUATE} {CORR}", f"{PLANE} {CORR}", ALIGNED_PLANE, MIDDLE),
    *(f"{ROBUST_NETWORK} --seed 1 --epochs 1", f"{ROBUST_NETWORK} --seed 2 --epochs 1"),
    *(f"{ROBUST_CURVE} --epochs 1", EVALUATE_ROBUST, f"{DRAW} --alignment corr", REPORT),
)

# What is under way in another one, killed before a file is renamed, and the number of that file
UNDER_WAY = {
    (network_on := f"{NETWORK} --seed 5 --epochs 3 --resume"): 3,
    (curve_on := f"{CURVE} --seed 5 --epochs 3 --resume"): 3,
    (pam_on := f"{PAM} {CORR} --resume"): 2,
    (evaluate_on := f"{EVALUATE} {PAM_NULL}"): 3,
    (plane_on := f"{PLANE} {PAM_NULL}"): 2,
}

# What is killed: stages that work for a while, and go on when the command is given again
KILLED = (
    f"{NETWORK} --seed 6 --epochs 9 --save_freq 4 --resume",
    f"{CURVE} --seed 6 --num_bends 4 --val_freq 3 --epochs 6 --resume",
    f"{PAM} {CORR} --seed 6 --outer_iters 2 --resume",
    f"{EVALUATE} {NULL} --epochs_curve 0 --num_points 9",
    f"{PLANE} {PAM_NULL} --num_points 4",
    f"{ALIGN} --align_name again",
    f"{ROBUST_NETWORK} --seed 6 --epochs 5 --resume",
    f"{ROBUST_CURVE} --seed 6 --epochs 5 --resume",
)

PAIR, PAM_PAIR = "align_corr_seeds_01_02", "align_pam_null_seeds_01_02"
learn, longer, resumed = f"{CURVE} --seed 5 --epochs 1", f"{CURVE} --epochs 3 --resume", f"{PAM} {NULL} --resume"
prepared = ("data/prepare.py", f"{NETWORK} --seed 5 --epochs 1")
aligned = (f"{ALIGN} --align_name again", "alignment/align_models_w2.py --epochs 2", learn, f"{PAM} {CORR}")
shown = ("evaluation/make_tables.py", DRAW, REPORT)

# What is damaged, by kind: names of files, and the stages that read them
FILES = {
    "network .pt": {
        "checkpoint_seed_0[12]-2.pt": (*aligned, f"{EVALUATE} {CORR}", f"{PLANE} {PAM_NULL}", MIDDLE),
        "checkpoint_seed_01-2.pt": (MADE[1],),
        "checkpoint_seed_0[12]-1.pt": (f"{ROBUST_CURVE} --seed 5 --epochs 1",),
    },
    "curve .pt": {
        f"checkpoint_{PAIR}-2.pt": (f"{MIDDLE} --point_t 0.25", longer, f"{EVALUATE} {CORR}"),
        f"checkpoint_{PAM_PAIR}-2.pt": (f"{EVALUATE} {PAM_NULL}", resumed),
        f"checkpoint_{PAM_PAIR}_perm1-2.pt": (resumed,),
        "checkpoint_align_null_*-1.pt": (EVALUATE_ROBUST,),
    },
    "rolling .pt": {
        "checkpoint_seed_05-resume.pt": (network_on,),
        f"checkpoint_{PAIR}_seed_5-resume.pt": (curve_on,),
        "checkpoint_align_pam_corr_*-resume.pt": (pam_on,),
    },
    "match .npy": {
        "match_corr_*.npy": (learn, ALIGN, f"{EVALUATE} {CORR} --epochs_curve 0"),
        "match_pam_null_*.npy": (f"{EVALUATE} {PAM_NULL}", resumed),
    },
    "history .npy": {"*_seed_01.npy": (MADE[1],)},
    "history .npz": {f"curve_{PAIR}.npz": (DRAW, REPORT, longer)},
    "evaluated .npz": {
        f"curve_{PAIR}-2.npz": (*shown, f"{EVALUATE} {CORR}"),
        "curve_align_null_*-1.npz": (EVALUATE_ROBUST, "evaluation/make_tables.py --adversarial"),
    },
    "partial .npz": {"curve_*.partial.npz": (evaluate_on,), "plane_*.partial.npz": (plane_on,)},
    "plane .npz": {
        f"plane_{PAIR}-2.npz": ("visualization/viz_curve_on_plane.py --epochs 2", f"{PLANE} {CORR}", REPORT),
        f"plane_{PAIR}.npz": ("visualization/viz_plane.py", ALIGNED_PLANE, REPORT),
    },
    "correlation .npy": {"corr_*aligned_mean_*.npy": (f"{LAYERS}/viz_align_models.py",)},
    "along-curve .npz": {"curve_*_t_0.5.npz": (f"{LAYERS}/viz_align_along_curves.py --epochs 2", MIDDLE)},
    "decoded.npy": {"decoded.npy": prepared},
    "image .png": {"[0-9]*.png": prepared},
    "figure .png": {"*_*.png": (REPORT,)},
}


def words(root: Path, command: str) -> tuple[str, ...]:
    """The script and flags of a stage that works under `root`."""
    script, *flags = shlex.split(command)
    is_at_work = re.match("training|alignment|evaluation/eval", script)
    more = ("--batch_size", "32", "--device", "cpu") if is_at_work else ()
    dataset = () if script.startswith("evaluation/make_") else ("--dataset", "bars")
    return script, "--root", str(root), *dataset, *more, *flags


def prepare(root: Path) -> dict[str, Path]:
    """The workspaces, by name. SystemExit where a stage that nothing happens to does not end well."""
    work, spaces = root / "trial", {}
    write_images(work / "data" / "bars")
    for name, steps, code in (("made", dict.fromkeys(MADE, 0), 0), ("under way", UNDER_WAY, -signal.SIGKILL)):
        for command, renaming in steps.items():
            if (outcome := run(words(work, command), kill_before=renaming)).code != code:
                raise SystemExit(str(outcome))
        spaces[name] = clone(work, root / name)
    return spaces


@functools.cache
def undisturbed(tries: Tries, workspace: Path, command: str) -> tuple[Path, Outcome]:
    """The results of a stage that nothing happens to, in a folder of their own, and its run."""
    outcome = run(words(clone(workspace, tries.trial), command))
    if outcome.code != 0:
        raise SystemExit(str(outcome))
    return clone(tries.trial, Path(tempfile.mkdtemp(dir=tries.folder))), outcome


def write_images(folder: Path) -> None:
    """Noise, the brighter the higher the class: 24 training and 8 test images of each of 3."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 72), ("test", 24)):
        for index in range(number):
            path = folder / split / f"class{index % 3}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8) + np.uint8(60 * (index % 3))
            Image.fromarray(image).save(path)
