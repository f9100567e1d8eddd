"""What is published: the defaults of each network, and where files are under a root."""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NAMED = ("torchvision", "timm")  # libraries whose networks go by LIBRARY:NAME
TEXT = "text:"  # before the name of a file, which is read as text

# --- defaults, and the one place in utils that names architectures -----------------------------------------

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
OF_TEXT = ("GPT",)
FIRST, OTHER = next(iter(NETWORKS)), Network()  # the default, and one that is not published

RESIZING = ("GoogLeNet", "Adversarial_GoogLeNet")  # transforms that resize the images of some datasets

EPOCHS_HELP = f"default: {EPOCHS}; {ROBUST_EPOCHS} if robust, but of curves for robust GoogLeNets 20"


def model_epochs(robust: bool) -> int:
    """For how long a network is trained by default, in whichever stage."""
    return ROBUST_EPOCHS if robust else EPOCHS


def curve_epochs(model: str, robust: bool) -> int:
    """For how long a curve is learned by default."""
    return NETWORKS.get(model, OTHER).robust_curve_epochs if robust else EPOCHS


def default_transform(model: str, robust: bool) -> str:
    """How the images of a network are varied and normalized by default."""
    if robust:
        return NETWORKS.get(model, OTHER).robust_transform
    return model if model in NETWORKS else "standard"


# --- where files are ---------------------------------------------------------------------------------------

FOLDERS = {
    "models": "model_dicts/basic_models",
    "matches": "model_dicts/paired_models",
    "curves": "model_dicts/curve_models",
    "model_history": "model_data/training/basic_models",
    "curve_history": "model_data/training/curve_models",
    "correlations": "model_data/paired_models",
    "evaluated": "model_data/curves",
    "planes_with_curve": "model_data/loss_planes_with_curve",
    "planes_with_alignment": "model_data/loss_planes_with_alignment",
}

# Of adversarially robust networks, as model_dicts/adversarial_models and model_data/adversarial_curves
ROBUST_FOLDERS = {
    kind: re.sub(r"(basic_)?(\w+)$", r"adversarial_\2", folder)
    for kind, folder in FOLDERS.items()
    if not kind.startswith("planes")
}


def file_of(model: str) -> Path | None:
    """The file of a user's network FILE.py:NAME or package.module:NAME; None where there is none.

    Modules are looked for in the working directory, in its folder src, and on Python's path.
    """
    source, _, name = model.rpartition(":")
    if source in NAMED or not name.isidentifier():
        return None
    places = [Path(source).expanduser()]
    if not source.endswith(".py"):
        parts = source.split(".") if source.replace(".", "").isidentifier() else []
        stems = [Path(folder, *parts) for folder in ("", "src", *sys.path) if parts]
        places = [place for stem in stems for place in (stem / "__init__.py", stem.parent / f"{stem.name}.py")]
    return next((place.resolve() for place in places if place.is_file()), None)


def full_name(model: str) -> str:
    """The name of a network; of a user's, with the path of its file, from the repository on if it lies in it."""
    path = file_of(model)
    return model if path is None else f"{_place(str(path)).as_posix()}:{model.rpartition(':')[2]}"


def _place(source: str) -> Path:
    """A path from the repository on if it lies in it."""
    path = Path(source).expanduser().resolve()
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


LONGEST = 60  # of a folder's name that is a whole path


def model_folder(model: str) -> str:
    """The folder of a network's files, by its name: a safe one, and another for another network.

    torchvision:resnet18 is in torchvision=resnet18, and models/net.py:Net of the repository in models+net.py=Net. Of
    other files the folder has the end of the name and a digest of the path: net.py=Net=01234567.
    """
    full = full_name(model)
    source, _, name = full.rpartition(":")
    if not source.endswith(".py") or not name.isidentifier():
        return full.replace(":", "=")
    whole = _whole_folder(full)
    if not Path(source).is_absolute() and len(whole) <= LONGEST:
        return whole
    file = re.sub(r"[^\w.-]", "_", Path(source).name)[-24:]
    return f"{file}={name[:24]}={hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _whole_folder(full: str) -> str:
    """The folder that the files of a user's network were in once: all of its path."""
    return quote(full, safe="/:").replace("/", "+").replace(":", "=")


def model_of(folder: str) -> str:
    """The name of the network whose files are in a folder, or what stands for it, and has the same folder."""
    source, _, name = folder.rpartition("=")
    if not source or source in NAMED:
        return folder.replace("=", ":")
    return source.replace("=", ":") + f"={name}" if "=" in source else unquote(f"{source.replace('+', '/')}:{name}")


def dataset_folder(dataset: str) -> str:
    """The folder of a dataset's files: its name; of data in a file a short one of their own, as of a network."""
    if not is_path_of_data(dataset):
        return dataset
    if ":" in dataset and not dataset.startswith(TEXT):
        return model_folder(dataset).replace("/", "+")
    path = _place(dataset.removeprefix(TEXT))
    stem = re.sub(r"[^\w.-]", "_", path.name.removesuffix(".npz"))[-24:].lstrip(".-")
    return f"{stem}={hashlib.sha256(path.as_posix().encode()).hexdigest()[:8]}"


def is_path_of_data(dataset: str) -> bool:
    """Whether a dataset is named by where it is: FILE.py:NAME, text:FILE, FILE.npz, or the path of a folder."""
    return ":" in dataset or "/" in dataset or dataset.endswith(".npz")


def is_network(model: str) -> bool:
    """Whether what `model_of` tells can be a network, and not any folder that somebody has put there."""
    source, _, name = model.rpartition(":")
    return model in (*NETWORKS, *OF_TEXT) or (bool(name) and (source in NAMED or source.endswith(".py")))


def tag(alignment: str) -> str:
    """The name of an alignment in file names: '' is `null`, and the original's `pam_` is `pam_null`."""
    return alignment + "null" if alignment in ("", "pam_") else alignment


class Variant(NamedTuple):
    """What tells curves between the same networks apart; a curve's name tells what differs from the defaults."""

    seed: int = 1  # of the curve's random draws
    num_bends: int = 3  # control points, the two ends included
    curve: str = "Bezier"  # the family, one of utils.curves.CURVES

    @property
    def differing(self) -> dict[str, object]:
        """What is not the usual, by name."""
        return {name: value for name, value in self._asdict().items() if value != getattr(USUAL, name)}

    @property
    def suffix(self) -> str:
        """What a curve's name has after the seeds of its networks, as _bends_5_PolyChain_seed_2."""
        parts = {"num_bends": f"_bends_{self.num_bends}", "curve": f"_{self.curve}", "seed": f"_seed_{self.seed}"}
        return "".join(part for name, part in parts.items() if name in self.differing)


USUAL = Variant()


@dataclass(frozen=True)
class Layout:
    """The paths of one model and dataset under `root`.

    replaced: folders to use instead of those above, by their names there; None replaces nothing.
    """

    root: Path
    model: str
    dataset: str
    robust: bool = False
    replaced: Mapping[str, Path | None] = field(default_factory=dict, hash=False)

    def folder(self, kind: str) -> Path:
        usual = ROBUST_FOLDERS if self.robust else FOLDERS
        folder = self.replaced.get(kind) or Path(self.root, usual[kind])
        own, once = model_folder(self.model), _whole_folder(full_name(self.model))
        is_old = len(once) < 256 and (folder / once).is_dir() and not (folder / own).is_dir()
        return folder / (once if is_old else own) / dataset_folder(self.dataset)

    def endpoint_stem(self, seed: int) -> Path:
        return self.folder("models") / f"checkpoint_seed_{seed:02d}"

    def curve_stem(self, alignment: str, seed_a: int, seed_b: int, variant: Variant = USUAL) -> Path:
        return self.folder("curves") / f"checkpoint_{_path_name(alignment, seed_a, seed_b, variant)}"

    def endpoint(self, seed: int, epoch: int) -> Path:
        return kept(self.endpoint_stem(seed), epoch)

    def curve(self, alignment: str, seed_a: int, seed_b: int, epoch: int, variant: Variant = USUAL) -> Path:
        return kept(self.curve_stem(alignment, seed_a, seed_b, of_path(alignment, epoch, variant)), epoch)

    def match(self, name: str, seed_a: int, seed_b: int, variant: Variant = USUAL) -> Path:
        """variant: of a curve; a match that PAM found with it has its seed in the name, and others have none."""
        suffix = _of_line(name, variant).suffix
        return self.folder("matches") / f"match_{name}_seeds_{seed_a:02d}_{seed_b:02d}{suffix}.npy"

    def model_history(self, seed: int) -> dict[str, Path]:
        """One file a series: loss_train, accuracy_train, loss_test, accuracy_test, and others that are there."""
        folder, suffix = self.folder("model_history"), f"_seed_{seed:02d}.npy"
        usual = [f"{quantity}_{split}" for quantity in ("loss", "accuracy") for split in ("train", "test")]
        there = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
        return {name: folder / f"{name}{suffix}" for name in dict.fromkeys([*usual, *there])}

    def curve_history(self, alignment: str, seed_a: int, seed_b: int, variant: Variant = USUAL) -> Path:
        return self.folder("curve_history") / f"curve_{_path_name(alignment, seed_a, seed_b, variant)}.npz"

    def correlation(self, name: str, which: str, seed_a: int, seed_b: int, variant: Variant = USUAL) -> Path:
        """Layerwise mean correlation; `which` is `unaligned` or `aligned`, by the match with this name and variant.

        The published name of a match by L2 distance has its mean distances (`distance`).
        """
        kind = f"{name}_correlation" if name.startswith("w2_") else name
        suffix = _of_line(name, variant).suffix
        return self.folder("correlations") / f"{kind}_{which}_mean_seeds_{seed_a:02d}_{seed_b:02d}{suffix}.npy"

    def distance(self, name: str, which: str, seed_a: int, seed_b: int) -> Path:
        """Layerwise root mean squared L2 distance, of a match by it; `which` is `unaligned` or `aligned`."""
        kind = name if name.startswith("w2_") else f"{name}_distance"
        return self.folder("correlations") / f"{kind}_{which}_mean_seeds_{seed_a:02d}_{seed_b:02d}.npy"

    def matrices(self, name: str, seed_a: int, seed_b: int) -> Path:
        """How every two channels correlate, by layer."""
        return self.folder("correlations") / f"matrices_{name}_seeds_{seed_a:02d}_{seed_b:02d}.npz"

    def along_curve(
        self, alignment: str, seed_a: int, seed_b: int, epoch: int, t: float, variant: Variant = USUAL
    ) -> Path:
        """Layerwise mean correlation of point t of a path with the path's ends."""
        name = _path_name(alignment, seed_a, seed_b, of_path(alignment, epoch, variant))
        return self.folder("correlations") / f"curve_{name}-{epoch}_t_{t:g}.npz"

    def evaluated(self, alignment: str, seed_a: int, seed_b: int, epoch: int, variant: Variant = USUAL) -> Path:
        name = _path_name(alignment, seed_a, seed_b, of_path(alignment, epoch, variant))
        return self.folder("evaluated") / f"curve_{name}-{epoch}.npz"

    def ensemble(
        self, alignment: str, seed_a: int, seed_b: int, epoch: int, members: int, variant: Variant = USUAL
    ) -> Path:
        """The evaluated ensemble of so many points of a path."""
        name = _path_name(alignment, seed_a, seed_b, of_path(alignment, epoch, variant))
        return self.folder("evaluated") / f"ensemble_{name}-{epoch}_of_{members}.npz"

    def ensembles(self, alignment: str, seed_a: int, seed_b: int, epoch: int, variant: Variant = USUAL) -> list[Path]:
        """The evaluated ensembles of a path, that of the most points last."""
        path = self.ensemble(alignment, seed_a, seed_b, epoch, 0, variant)
        there = path.parent.glob(path.name.replace("_of_0.npz", "_of_*[0-9].npz"))
        return sorted(there, key=lambda path: int(path.stem.rpartition("_")[2]))

    def plane_with_curve(
        self, alignment: str, seed_a: int, seed_b: int, epoch: int, variant: Variant = USUAL
    ) -> Path:
        name = _path_name(alignment, seed_a, seed_b, variant)
        return self.folder("planes_with_curve") / f"plane_{name}-{epoch}.npz"

    def plane_with_alignment(self, alignment: str, seed_a: int, seed_b: int, seed_c: int | None = None) -> Path:
        """Of A, B and aligned B; or of three networks, of which B and C are aligned to A."""
        third = "" if seed_c is None else f"_{seed_c:02d}"
        return self.folder("planes_with_alignment") / f"plane_{_path_name(alignment, seed_a, seed_b)}{third}.npz"


def _path_name(alignment: str, seed_a: int, seed_b: int, variant: Variant = USUAL) -> str:
    return f"align_{tag(alignment)}_seeds_{seed_a:02d}_{seed_b:02d}{variant.suffix}"


def of_path(alignment: str, epoch: int, variant: Variant) -> Variant:
    """The variant of a path: that of a learned curve, and for most straight lines the usual one."""
    return variant if epoch else _of_line(alignment, variant)


def _of_line(alignment: str, variant: Variant) -> Variant:
    """A straight line, as a match, has no variants, unless PAM, with the seed of a curve, found where it ends."""
    return Variant(variant.seed) if alignment.startswith("pam_") else USUAL


def kept(stem: Path, epoch: int) -> Path:
    return stem.with_name(f"{stem.name}-{epoch}.pt")


def rolling(stem: Path) -> Path:
    """The checkpoint of the last finished epoch of a run that is under way."""
    return stem.with_name(f"{stem.name}-resume.pt")


def partial(path: Path) -> Path:
    """Where a table is kept while it grows."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def kept_epochs(stem: Path) -> list[int]:
    """The epochs, in order, of which the run `stem` kept checkpoints."""
    pattern = re.compile(re.escape(stem.name) + r"-(\d+)\.pt")
    names = (pattern.fullmatch(path.name) for path in stem.parent.glob(f"{stem.name}-*.pt"))
    return sorted(int(name[1]) for name in names if name)


# --- names, read backwards ---------------------------------------------------------------------------------


class Name(NamedTuple):
    """What the name of a published file tells: what `kind` of file, of which model and dataset, and the rest."""

    kind: str
    model: str
    dataset: str
    robust: bool
    seeds: tuple[int, ...]  # of the network, of A and B, or of three
    alignment: str | None = None  # a path's tag, or a match's name
    epoch: int | None = None
    t: float | None = None
    variant: Variant = USUAL


_PAIR = r"seeds_(?P<a>\d+)_(?P<b>\d+)"
_SEED = r"(_seed_(?P<seed>\d+))?"
_CURVE = _PAIR + r"(_bends_(?P<bends>\d+))?(_(?P<family>PolyChain))?" + _SEED
_NAMES = {
    "endpoint": r"checkpoint_seed_(?P<a>\d+)(-(?P<epoch>\d+)|-resume)?\.pt",
    "curve": rf"checkpoint_align_(?P<alignment>.+)_{_CURVE}(_(perm|phi)\d+)?(-(?P<epoch>\d+)|-resume)?\.pt",
    "match": rf"match_(?P<alignment>.+)_{_CURVE}\.(npy|json)",
    "correlation": rf"(?P<alignment>.+?)(_correlation|_distance)?_(un)?aligned_mean_{_PAIR}{_SEED}\.npy",
    "matrices": rf"matrices_(?P<alignment>.+)_{_PAIR}\.npz",
    "model_history": r"\w+_(train|test)_seed_(?P<a>\d+)\.npy",
    "along_curve": rf"curve_align_(?P<alignment>.+)_{_CURVE}-(?P<epoch>\d+)_t_(?P<t>[\d.e-]+?)(\.partial)?\.npz",
    "evaluated": rf"curve_align_(?P<alignment>.+)_{_CURVE}-(?P<epoch>\d+)(\.partial)?\.np[yz]",
    "ensemble": rf"ensemble_align_(?P<alignment>.+)_{_CURVE}-(?P<epoch>\d+)_of_\d+(\.partial)?\.npz",
    "curve_history": rf"curve_align_(?P<alignment>.+)_{_CURVE}(_(perm|phi)\d+)?\.npz",
    "plane_with_curve": rf"plane_align_(?P<alignment>.+)_{_CURVE}-(?P<epoch>\d+)(\.partial)?\.npz",
    "plane_with_alignment": rf"plane_align_(?P<alignment>.+?)_{_PAIR}(_(?P<c>\d+))?(\.partial)?\.npz",
}


def read_name(path: Path) -> Name | None:
    """What a file's path in the layout tells; None for a file that has no published name."""
    if len(path.parts) < 3:
        return None
    model, dataset = path.parts[-3:-1]
    for kind, pattern in _NAMES.items():
        if name := re.fullmatch(pattern, path.name):
            found = name.groupdict()
            epoch, t = found.get("epoch"), found.get("t")
            return Name(
                kind,
                model_of(model),
                dataset,
                robust=any(part.startswith("adversarial_") for part in path.parts[-4:-3]),
                seeds=tuple(int(found[end]) for end in "abc" if found.get(end)),
                alignment=None if found.get("alignment") is None else tag(found["alignment"]),
                epoch=None if epoch is None else int(epoch),
                t=None if t is None else float(t),
                variant=Variant(
                    int(found.get("seed") or 1), int(found.get("bends") or 3), found.get("family") or "Bezier"
                ),
            )
    return None
