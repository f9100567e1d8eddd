"""What is published of each network: defaults of the stages, and the one place in utils that names architectures."""

from typing import NamedTuple

EPOCHS = 250  # of networks and of curves
ROBUST_EPOCHS = 200  # of robust networks and curves


class Network(NamedTuple):
    """robust_curve_epochs: for how long its robust curves are learned.

    robust_transform: augmentation of the images of robust networks (`datasets.TRANSFORMS`). twin: the script that
    aligns it, where it has one of its own.
    """

    robust_curve_epochs: int = ROBUST_EPOCHS
    robust_transform: str = "Adversarial"
    twin: str = ""


NETWORKS = {  # in the order of the paper's tables
    "TinyTen": Network(),
    "ResNet32": Network(),
    "GoogLeNet": Network(20, "Adversarial_GoogLeNet", "alignment/align_googlenet.py"),
}
FIRST, OTHER = next(iter(NETWORKS)), Network()  # the default, and one that is not published

RESIZING = ("GoogLeNet", "Adversarial_GoogLeNet")  # transforms that resize the images of some datasets

EPOCHS_HELP = f"default: {EPOCHS}; for robust networks {ROBUST_EPOCHS}"
CURVE_EPOCHS_HELP = f"default: {EPOCHS}; for robust curves {ROBUST_EPOCHS}, for robust GoogLeNets 20"


def model_epochs(robust: bool) -> int:
    """For how long a network is trained by default, in whichever stage."""
    return ROBUST_EPOCHS if robust else EPOCHS


def curve_epochs(model: str, robust: bool) -> int:
    """For how long a curve is learned by default."""
    return NETWORKS.get(model, OTHER).robust_curve_epochs if robust else EPOCHS


def default_transform(model: str | None, robust: bool) -> str | None:
    """How the images of a network are varied and normalized by default."""
    if robust:
        return NETWORKS.get(model, OTHER).robust_transform
    return model if model is None or model in NETWORKS else "standard"
