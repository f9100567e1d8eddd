"""Which stages read which files."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.torture.workspaces import (
    CORR,
    CURVE,
    PAIR,
    PAM,
    PAM_OF_CORR,
    PLANE,
    ROBUST,
    ROBUST_CURVE,
    ROBUST_MATCH,
)


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


# --- the stages: workspace, script, flags ------------------------------------------------------------------

TRAIN_CURVE, PAM_CURVE = "training/train_curve.py", "training/train_curve_pam.py"
EVALUATE, EVALUATE_ROBUST = "evaluation/eval_curve.py", "evaluation/eval_adversarial_curve.py"
EVALUATE_PLANE, EVALUATE_PLANE_ALIGNED = (f"evaluation/eval_plane_with_{what}.py" for what in ("curve", "alignment"))
ALIGN, ALONG = "alignment/align_models.py", "alignment/align_along_curve.py"
VIZ = "visualization/"
LAYERWISE = f"{VIZ}layerwise_mean_correlation/"

train = ("networks", "training/train_model.py", ["--seed", 5, "--epochs", 1])
train_again = ("networks", "training/train_model.py", ["--seed", 1, "--epochs", 3, "--lr_drop", 1])
train_on = ("under way", "training/train_model.py", ["--seed", 5, "--epochs", 4, "--resume"])
robust_on = (
    "under way",
    "training/train_model_adversarial.py",
    ["--seed", 5, "--epochs", 4, *ROBUST, "--resume"],
)
prepare = ("networks", "data/prepare.py", [])

align = ("networks", ALIGN, ["--epochs", 3, "--align_name", "again"])
align_again = ("networks", ALIGN, ["--epochs", 3])
align_w2 = ("networks", "alignment/align_models_w2.py", ["--epochs", 3])
align_robust = ("networks", ALIGN, ROBUST_MATCH)
middle = ("curves", ALONG, [*CURVE, *CORR])
middle_again = ("evaluated", ALONG, [*CURVE, *CORR])

learn = ("networks", TRAIN_CURVE, [*PAIR, *CORR, "--epochs", 1])
learn_longer = ("curves", TRAIN_CURVE, [*PAIR, *CORR, "--epochs", 3, "--resume"])
learn_on = ("under way", TRAIN_CURVE, [*PAIR, *CORR, "--epochs", 5, "--resume"])
learn_robust = (
    "networks",
    "training/train_curve_adversarial.py",
    ["--epochs_model", 2, *CORR, "--epochs", 1, *ROBUST],
)
pam = ("networks", PAM_CURVE, [*PAIR, *CORR, "--inner_iters_perm", 1, "--inner_iters_phi", 1])
pam_again = ("curves", PAM_CURVE, [*PAM, "--resume"])
pam_on = ("under way", PAM_CURVE, [*PAM_OF_CORR, "--resume"])

evaluate = ("curves", EVALUATE, [*CURVE, *CORR, "--num_points", 3])
evaluate_pam = ("curves", EVALUATE, [*CURVE, "--alignment", "pam_null", "--num_points", 3])
evaluate_on = ("under way", EVALUATE, [*CURVE, *CORR, "--num_points", 5])
evaluate_again = ("evaluated", EVALUATE, [*CURVE, *CORR, "--num_points", 5])
evaluate_robust = ("curves", EVALUATE_ROBUST, ROBUST_CURVE)
evaluate_robust_again = ("evaluated", EVALUATE_ROBUST, ROBUST_CURVE)
plane = ("curves", EVALUATE_PLANE, [*CURVE, *CORR, "--num_points", 2, "--bn_images", 64])
plane_on = ("under way", EVALUATE_PLANE, [*CURVE, *CORR, *PLANE])
plane_again = ("evaluated", EVALUATE_PLANE, [*CURVE, *CORR, *PLANE])
plane_aligned = ("curves", EVALUATE_PLANE_ALIGNED, [*PAIR, "--num_points", 2, "--bn_images", 64])
plane_aligned_again = ("evaluated", EVALUATE_PLANE_ALIGNED, [*PAIR, *PLANE])

draw_curve = ("evaluated", f"{VIZ}viz_curve.py", ["--epochs", 0, 2])
draw_robust = ("evaluated", f"{VIZ}viz_adversarial_curve.py", ["--epochs", 1, "--alignment", ""])
draw_on_plane = ("evaluated", f"{VIZ}viz_curve_on_plane.py", ["--epochs", 2])
draw_plane = ("evaluated", f"{VIZ}viz_plane.py", [])
draw_correlation = ("evaluated", f"{LAYERWISE}viz_align_models.py", [])
draw_along = ("evaluated", f"{LAYERWISE}viz_align_along_curves.py", ["--epochs", 2])
table = ("evaluated", "evaluation/make_tables.py", ["--dataset", "bars"])
table_robust = ("evaluated", "evaluation/make_tables.py", ["--adversarial"])
report = ("evaluated", "evaluation/make_report.py", [])
report_of_drawn = ("drawn", "evaluation/make_report.py", [])

# --- the files, and who reads them -------------------------------------------------------------------------

OF_CORR = "align_corr_seeds_01_02"
OF_PAM = "pam_null_seeds_01_02"


def _models(kind: str) -> str:
    return f"model_dicts/{kind}_models/TinyTen/bars/"


def _data(folder: str) -> str:
    return f"model_data/{folder}/TinyTen/bars/"


FILES = {
    "network .pt": {
        _models("basic") + "checkpoint_seed_0[12]-3.pt": [
            *(align, align_w2, learn, pam, evaluate, plane, plane_aligned, middle, evaluate_again),
        ],
        _models("basic") + "checkpoint_seed_01-3.pt": [train_again],
    },
    "robust network .pt": {
        _models("adversarial") + "checkpoint_seed_0[12]-2.pt": [learn_robust, evaluate_robust, align_robust],
    },
    "curve .pt": {
        _models("curve") + f"checkpoint_{OF_CORR}-2.pt": [evaluate, plane, middle, learn_longer],
        _models("curve") + f"checkpoint_align_{OF_PAM}-2.pt": [evaluate_pam, pam_again],
        _models("curve") + f"checkpoint_align_{OF_PAM}_perm1-2.pt": [pam_again],
        _models("adversarial_curve") + "checkpoint_*-1.pt": [evaluate_robust],
    },
    "rolling .pt": {
        _models("basic") + "checkpoint_seed_05-resume.pt": [train_on],
        _models("curve") + f"checkpoint_{OF_CORR}-resume.pt": [learn_on],
        _models("curve") + "checkpoint_align_pam_corr_*-resume.pt": [pam_on],
        _models("adversarial") + "checkpoint_seed_05-resume.pt": [robust_on],
    },
    "match .npy": {
        _models("paired") + "match_corr_*.npy": [learn, pam, evaluate, plane_aligned, align_again],
        _models("paired") + f"match_{OF_PAM}.npy": [evaluate_pam, pam_again],
        _models("adversarial_paired") + "*.npy": [learn_robust],
    },
    "history .npy": {
        _data("training/basic_models") + "*_seed_01.npy": [train_again],
    },
    "history .npz": {
        _data("training/curve_models") + f"curve_{OF_CORR}.npz": [draw_curve, report, learn_longer],
    },
    "evaluated .npz": {
        _data("curves") + "curve_*.npz": [draw_curve, table, table, report],
        _data("curves") + f"curve_{OF_CORR}-2.npz": [evaluate_again, draw_on_plane],
        _data("adversarial_curves") + "curve_*.npz": [draw_robust, table_robust, report, evaluate_robust_again],
    },
    "partial .npz": {
        _data("curves") + f"curve_{OF_CORR}-2.partial.npz": [evaluate_on],
        _data("loss_planes_with_curve") + f"plane_{OF_CORR}-2.partial.npz": [plane_on],
    },
    "plane .npz": {
        _data("loss_planes_with_curve") + "*.npz": [draw_on_plane, report],
        _data("loss_planes_with_curve") + f"plane_{OF_CORR}-2.npz": [plane_again],
        _data("loss_planes_with_alignment") + "*.npz": [draw_plane, plane_aligned_again],
    },
    "correlation .npy": {
        _data("paired_models") + "corr_*.npy": [draw_correlation],
    },
    "along-curve .npz": {
        _data("paired_models") + "curve_*.npz": [draw_along],
        _data("paired_models") + f"curve_{OF_CORR}-2_*.npz": [middle_again],
    },
    "decoded.npz": {
        "bars/decoded.npz": [train, evaluate, prepare],
    },
    "image of the dataset": {
        "bars/*/*/*.png": [train, prepare],
    },
    "figure .png": {
        "figures/*.png": [report_of_drawn],
    },
}

READERS = [
    Reader(kind, pattern, *stage)
    for kind, patterns in FILES.items()
    for pattern, stages in patterns.items()
    for stage in stages
]
