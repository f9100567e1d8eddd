"""Command lines that scripts advise: what comes next, what makes a missing file, and what mends one.

A file's record says by which command it was made. Of a file without one, its name says which stage makes it, with
which flags; those by which the user named images and device are added.
"""

import importlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .. import distributed
from ..errors import FileError, UserError, printable
from .layout import (
    NETWORKS,
    OTHER,
    REPOSITORY,
    Layout,
    Name,
    Variant,
    curve_epochs,
    kept,
    kept_epochs,
    model_epochs,
    model_folder,
    partial,
    read_name,
)
from .parser import DECLARED, PASSING, Declared, Parser
from .records import behind, load_record, network_of

# --- which scripts there are -------------------------------------------------------------------------------

# The scripts that make each kind of file
MAKERS = {
    "endpoint": ("training/train_model.py", "training/train_model_adversarial.py", "training/import_checkpoint.py"),
    "curve": ("training/train_curve.py", "training/train_curve_adversarial.py", "training/train_curve_pam.py"),
    "match": (
        *("alignment/align_models.py", "alignment/align_googlenet.py", "alignment/align_models_w2.py"),
        *("alignment/align_many.py", "training/train_curve_pam.py"),
    ),
    "evaluated": ("evaluation/eval_curve.py", "evaluation/eval_adversarial_curve.py"),
    "ensemble": ("evaluation/eval_curve.py",),
    "along_curve": ("alignment/align_along_curve.py",),
    "plane_with_curve": ("evaluation/eval_plane_with_curve.py",),
    "plane_with_alignment": ("evaluation/eval_plane_with_alignment.py",),
}
MAKERS |= {"model_history": MAKERS["endpoint"], "curve_history": MAKERS["curve"]}
MAKERS |= {"correlation": MAKERS["match"], "matrices": MAKERS["match"][:3]}

# The twins of stages for adversarially robust networks
ROBUST_SCRIPTS = {
    "training/train_model.py": "training/train_model_adversarial.py",
    "training/train_curve.py": "training/train_curve_adversarial.py",
    "evaluation/eval_curve.py": "evaluation/eval_adversarial_curve.py",
    "visualization/viz_curve.py": "visualization/viz_adversarial_curve.py",
}

# Scripts that have the flags of another one
TWINS = {robust: plain for plain, robust in ROBUST_SCRIPTS.items()}
TWINS |= dict.fromkeys(("alignment/align_googlenet.py", "alignment/align_models_w2.py"), "alignment/align_models.py")

# What each script has in the place of folders of the layout: kind, flag, and other names of the original code for it
_NETWORKS = "models --dir_models, matches --dir_alignment"
_PATHS = "models --dir_models --dir_endpoints, matches --dir_alignment, curves --dir_curves --dir_midpoints"
_PLANES = "models --dir_models --dir_endpoints, matches --dir_alignment --alignment_path"
FOLDER_FLAGS = {
    "training/train_model.py": "models --dir, model_history --dir2",
    "training/import_checkpoint.py": "models --dir",
    "training/train_curve.py": f"{_NETWORKS}, curves --dir, curve_history --dir2",
    "training/train_curve_pam.py": f"{_NETWORKS}, curves --dir, curve_history --dir2",
    "alignment/align_models.py": (
        "models --dir_models --model_path, matches --dir_alignment --dir, correlations --dir2"
    ),
    "alignment/align_many.py": f"{_NETWORKS}, correlations --dir2",
    "alignment/align_along_curve.py": f"{_PATHS}, correlations --dir",
    "evaluation/eval_curve.py": f"{_PATHS}, evaluated --dir",
    "evaluation/export_point.py": _PATHS,
    "evaluation/eval_plane_with_curve.py": f"{_PATHS}, planes_with_curve --dir",
    "evaluation/eval_plane_with_alignment.py": f"{_PLANES}, planes_with_alignment --dir",
    "visualization/viz_curve.py": f"{_PATHS}, evaluated --dir, curve_history --dir2",
    "visualization/viz_curve_on_plane.py": f"{_PATHS}, planes_with_curve --dir, evaluated --dir2",
    "visualization/viz_alignment_images.py": f"{_PATHS}, evaluated --dir",
    "visualization/viz_plane.py": f"{_NETWORKS}, planes_with_alignment --dir",
    "visualization/layerwise_mean_correlation/viz_align_models.py": f"{_NETWORKS}, correlations --dir",
    "visualization/layerwise_mean_correlation/viz_align_along_curves.py": f"{_PATHS}, correlations --dir",
}
COMPUTING = ("training/", "alignment/", "evaluation/eval_")  # scripts that have the flags of images and devices


def folder_names(script: str) -> dict[str, list[str]]:
    """The names of the flags by which a script is given folders, by kind of folder."""
    parts = FOLDER_FLAGS.get(TWINS.get(script, script), "").split(", ")
    return {kind: names for kind, *names in map(str.split, filter(None, parts))}


def declared(script: str) -> Parser:
    """The parser of a script."""
    try:
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args(DECLARED)
    except Declared as found:
        return found.args[0]


# --- commands ----------------------------------------------------------------------------------------------

Flags = Mapping[str, object]


@dataclass(frozen=True)
class Here:
    """Where advice is given: by a stage that runs; or on a page, of which a layout is all that is known.

    layout: where files are, and of which network and dataset (of scripts that show several, '').
    command: the script that runs, and its arguments.
    typed: what the user has said of images and device, which further commands repeat, by flag.
    epochs: the numbers of epochs, by flag. match: the name of the match that an aligning stage makes.
    began: when it began, in seconds.
    """

    layout: Layout
    command: Sequence[str] = ()
    typed: Mapping[str, list[str]] = field(default_factory=dict)
    epochs: Flags = field(default_factory=dict)
    match: str | None = None
    began: float = field(default_factory=time.time)

    @property
    def script(self) -> str:
        return self.command[0] if self.command else ""

    @property
    def images(self) -> dict[str, list[str]]:
        """What has been typed about images, whichever dataset they are of."""
        return {flag: words for flag, words in self.typed.items() if flag != "dataset"}


def command(here: Here, script: str, flags: Flags) -> str:
    """The command line of a script with these flags, for the same network, images, device and folders.

    For robust networks, that of its twin.
    """
    script = ROBUST_SCRIPTS.get(script, script) if here.layout.robust else script
    same = {"model": here.layout.model, "dataset": here.layout.dataset} if here.command else {}
    words = {name: _words(name, value) for name, value in (same | dict(flags)).items()}
    images = here.images if script.startswith(COMPUTING) else {}
    return _line(here, script, images | words | _where(here, script, robust=here.layout.robust))


def documented(script: str, flags: Flags, *, root: Path, robust: bool = False) -> str:
    """The command line of a script with these flags, for a page, and so for the repository's folder."""
    return command(Here(Layout(root, "", "", robust)), script, flags)


def align_command(here: Here, flags: Flags) -> str:
    """The command that matches two networks that the running script has made."""
    return command(here, NETWORKS.get(here.layout.model, OTHER).twin or "alignment/align_models.py", flags)


def again(here: Here, changes: Flags) -> str:
    """The command of this process with some of its flags changed."""
    parser = declared(here.script)
    return _changed(here, parser, parser.chunks(here.command[1:]), changes, robust=here.layout.robust)


def _words(name: str, value: object) -> list[str]:
    """A flag as it is typed; nothing for one that is off or None."""
    if value is None or value is False:
        return []
    several = value if isinstance(value, (list, tuple)) else [] if value is True else [value]
    return [f"--{name}", *map(str, several)]


def _where(here: Here, script: str, *, robust: bool) -> dict[str, list[str]]:
    """What says where a script finds and writes things, where it computes, and that networks are robust, by flag."""
    typed = here.typed if script.startswith(COMPUTING) else {}
    words = {flag: typed[flag] for flag in ("data_path", "device") if flag in typed}
    replaced = here.layout.replaced
    folders = {names[0][2:]: replaced[kind] for kind, names in folder_names(script).items() if kind in replaced}
    folders |= {"root": here.layout.root}
    words |= {flag: _words(flag, folder) for flag, folder in folders.items() if folder != REPOSITORY}
    return words | ({"robust": ["--adversarial"]} if robust and script not in ROBUST_SCRIPTS.values() else {})


def _changed(here: Here, parser: Parser, typed: Mapping[str, list[str]], changes: Flags, *, robust: bool) -> str:
    """A command line in words, by flags, with some changed, and where things are now."""
    typed = {flag: words for flag, words in typed.items() if flag not in PASSING}
    typed |= {flag: parser.words(flag, value) for flag, value in changes.items()}
    return _line(here, parser.script, typed | _where(here, parser.script, robust=robust))


def _line(here: Here, script: str, typed: Mapping[str, list[str]]) -> str:
    words = [word for several in typed.values() for word in several]
    if not here.command:
        return printable(shlex.join(["python", script, *words]))
    path = REPOSITORY / script
    place = os.path.relpath(path) if REPOSITORY.is_relative_to(Path.cwd()) else str(path)
    return printable(shlex.join([_python(), place, *words]))


def _python() -> str:
    """The interpreter of this process as a shell calls it: python, if that name leads to it, or its path."""
    named, own, called = shutil.which("python"), Path(sys.executable), sys.orig_argv[0]
    if named and Path(named).parent.resolve() == own.parent.resolve() and Path(named).samefile(own):
        return "python"
    return called if os.sep in called and Path(called).is_file() else str(own)


def closing_words(here: Here, paths: Sequence[Path], next_command: str | None = None) -> None:
    """Name the files of a stage's result, apart from those that existed already, and the command that comes next."""
    if not distributed.is_main():  # which writes them, perhaps only now
        return
    new = [path for path in paths if path.stat().st_mtime >= here.began]
    old = [path for path in paths if path not in new]
    for words, those in (("There already:", old), ("Wrote:", new)):
        if those:
            print("\n  ".join([words, *(printable(str(path)) for path in those)]))
    if next_command and "MAKELEVEL" not in os.environ:  # make goes on by itself
        print(f"Next:\n  {next_command}")


# --- what mends an error -----------------------------------------------------------------------------------

OF_IMAGES = {
    "resize": "give images one size with: --image_size N",
    "exchange": "put a sound image in its place, or move it out of the dataset",
}
OWN = {  # what mends a file of the kind that the running script makes itself
    "resume": "add --resume to go on, or --overwrite to begin anew",
    "replace": "use the same flags, or --overwrite to make it anew, or another --root",
    "replace a match": "add --overwrite to replace it, or --align_name for a new one",
    "remake": "move it away, and run the same command again",
    "continue": "run the same command again",
}


def explain(error: UserError, here: Here | None) -> str:
    """What an error says, and the command that mends it, in one line."""
    mend = error.mend if isinstance(error, FileError) else ""
    if mend in OF_IMAGES:
        return f"{error}; {OF_IMAGES[mend]}"
    if not mend or here is None or (name := read_name(error.path)) is None:
        return str(error)
    if mend == "make":
        return f"{error}; {_make(error.path, name, here, error.flags)}"
    if _makes(here, name):
        is_match = name.kind == "match" and not _is_pams(name)
        return f"{error}; {OWN['replace a match' if is_match and mend == 'replace' else mend]}"
    made = made_by(error.path, name, here, error.flags)
    if made is None:
        return f"{error}; move it away" if mend == "remake" else str(error)
    if mend in ("continue", "resume"):
        resumes = mend == "resume" or name.kind in ("endpoint", "model_history", "curve", "curve_history")
        return f"{error}; go on with: {made}" + (" --resume" if resumes else "")
    if mend == "replace":
        return f"{error}; make it anew with: {made} --overwrite"
    return f"{error}; move it away, and make it anew with: {made}"


def _makes(here: Here, name: Name) -> bool:
    """Whether the running script makes such a file itself. Of matches, PAM makes its own, and no others."""
    if name.kind == "match" and (here.match or name.alignment) != name.alignment:
        return False
    is_own = name.kind != "match" or _is_pams(name) == here.script.endswith("_pam.py")
    return here.script in MAKERS[name.kind] and is_own


def _is_pams(name: Name) -> bool:
    return (name.alignment or "").startswith("pam_")


def _make(path: Path, name: Name, here: Here, flags: Flags) -> str:
    """What makes a missing file, or goes on with the run that is to make it; and what there is instead."""
    run = _run_of(path, name, here)
    length = {"epochs": name.epoch} if run and name.epoch is not None else {}
    made = made_by(run or path, name, here, {**length, **flags})
    if run and run.stem.endswith("-resume"):
        return f"it is under way; go on with: {made} --resume"
    make = f"make it with: {made}" if made else "any other name is given by: align_models.py --align_name"
    return ", or ".join([*_there_is(path, name, here), make])


def made_by(path: Path, name: Name, here: Here, changes: Flags) -> str | None:
    """The command that made the file at `path`, or began it, as it is recorded, with `changes` of its flags.

    name: of that file, or of another one that the same command makes. It says which network and dataset they belong
        to, and `here` where they are, whatever the record says. Of a file without a recorded command: what its name,
        the flags recorded and those of the user amount to; None where no script alone makes it.
    """
    record, robust = load_record(path if path.exists() else partial(path)), name.robust or here.layout.robust
    script, *words = record.command or [""]
    others = ROBUST_SCRIPTS if robust else ROBUST_SCRIPTS.values()
    parser = declared(script) if script in MAKERS[name.kind] and script not in others else None
    typed = parser.chunks(words) if parser else None
    # The path of a user's file is from where it was typed
    models = [here.layout.model, *(word.removeprefix("--model=") for word in here.command)]
    typed_model = next((one for one in models if model_folder(one) == model_folder(name.model)), None)
    where = {"model": typed_model or network_of(path, name), "dataset": _dataset(name, here, typed or {})}
    if typed is None:
        made = _maker(name, here, record.flags)
        if made is None:
            return None
        parser = declared(ROBUST_SCRIPTS.get(made[0], made[0]) if robust else made[0])
        flags = {**where, **made[1]}
        flags |= {flag: value for flag, value in record.flags.items() if flag not in flags}
        typed = {flag: parser.words(flag, value) for flag, value in flags.items()}
        typed = typed if record else here.images | typed
    if parser.script.endswith("_pam.py") and "epochs" in changes:
        changes = {("inner_iters_phi" if flag == "epochs" else flag): value for flag, value in changes.items()}
    return _changed(here, parser, typed, {**changes, **where}, robust=robust)


def _dataset(name: Name, here: Here, typed: Mapping[str, list[str]]) -> str:
    """The dataset of a file, as it was named in the command that made the file, or is by the user."""
    words = [*typed.get("dataset", ()), *here.typed.get("dataset", ())]
    layouts = [Layout(Path(), "", word.removeprefix("--dataset=")) for word in words]
    return next((one.dataset for one in layouts if one.folder("models").name == name.dataset), name.dataset)


def _run_of(path: Path, name: Name, here: Here) -> Path | None:
    """A checkpoint of the run that is to make the file at `path`: of one under way, or of any part of PAM's."""
    is_pam = _is_pams(name) and name.variant == Variant(name.variant.seed)
    if name.kind not in (("endpoint", "curve", "match", "correlation") if is_pam else ("endpoint", "curve")):
        return None
    folder = path.parent if name.kind in ("endpoint", "curve") else _layout(name, here).folder("curves")
    run = name._replace(kind="endpoint" if name.kind == "endpoint" else "curve", epoch=None)
    files = [file for file in sorted(folder.glob("checkpoint_*.pt")) if not file.stem.endswith("-0")]
    files = [file for file in files if (one := read_name(file)) and one._replace(epoch=None) == run]
    newest = [file for file in files if file.stem.endswith("-resume") and load_record(file)]
    return next(iter([*newest, *(files if is_pam else [])]), None)


def _there_is(path: Path, name: Name, here: Here) -> list[str]:
    """What there is instead of a missing file: other matches, networks and paths of other epochs."""
    if name.kind == "match":
        pattern = f"match_*_seeds_{name.seeds[0]:02d}_{name.seeds[1]:02d}.npy"
        begins = any(word.partition("=")[0] == "--init" for word in here.command)
        flag = "--init" if begins else "--alignment"
        there = sorted(filter(None, map(read_name, path.parent.glob(pattern))))
        return [f"there is {one.alignment}: {flag} {one.alignment}" for one in there]
    if name.kind not in ("endpoint", "curve", "evaluated", "plane_with_curve"):
        return []
    named = "epochs_model" if name.kind == "endpoint" else "epochs_curve"
    flag = named if named in here.epochs else "epochs"
    under_way = re.compile(r"-resume\.|\.partial\.|_(perm|phi)\d+-")
    finished = [file for file in path.parent.glob(f"*-*{path.suffix}") if not under_way.search(file.name)]
    there = [other for other in map(read_name, finished) if other and other.kind == name.kind]
    epochs = {other.epoch for other in there if other._replace(epoch=name.epoch) == name} - {None, 0, name.epoch}
    if epochs or name.kind != "endpoint":
        return [f"there is one of {number} epochs: --{flag} {number}" for number in sorted(epochs)]
    seeds: dict[int, list[int]] = {}
    for one in sorted(there, key=lambda one: (one.epoch, one.seeds)):
        seeds.setdefault(one.epoch, []).extend(one.seeds)
    words = [f"seed {', '.join(map(str, those))} (of {number} epochs)" for number, those in seeds.items()]
    return [f"there is {' and '.join(words)}"] if words else []


def _maker(name: Name, here: Here, recorded: Flags) -> tuple[str, Flags] | None:
    """The script and flags that make a file of this name, with these flags recorded; None if no script alone does.

    Flags that the script does not have are no part of its command.
    """
    asked = here.epochs
    of_models = asked.get("epochs" if here.match else "epochs_model")
    if name.kind in ("endpoint", "model_history"):
        epochs = _first(name.epoch, of_models, asked.get("epochs"))
        return "training/train_model.py", {"seed": name.seeds[0], "epochs": epochs}
    flags: dict[str, object] = dict(zip(("seed_a", "seed_b", "seed_c"), name.seeds, strict=False))
    newest = kept_epochs(_layout(name, here).endpoint_stem(name.seeds[0]))[-1:]
    known = recorded.get("epochs_model", recorded.get("epochs"))
    is_usual = name.epoch in (None, 0, curve_epochs(name.model, name.robust))
    usual = model_epochs(name.robust) if is_usual else name.epoch
    flags["epochs_model"] = epochs_model = _first(known, of_models, *newest, usual)
    is_found = name.kind in ("match", "correlation", "matrices")
    if is_found and not _is_pams(name):
        return _aligner(name, recorded, flags | {"epochs": epochs_model, "matrices": name.kind == "matrices"})
    flags |= {**name.variant.differing, "alignment": "" if name.alignment == "null" else name.alignment}
    if is_found or name.kind in ("curve", "curve_history"):
        of_curves = (asked.get(flag) for flag in ("epochs_curve", "inner_iters_phi", "epochs"))
        epochs = _first(name.epoch, *of_curves, epochs_model)
        if _is_pams(name) and name.variant == Variant(name.variant.seed):  # others have only their ends from PAM
            start = name.alignment.removeprefix("pam_").removeprefix("null")
            return "training/train_curve_pam.py", flags | {"alignment": start, "inner_iters_phi": epochs}
        return "training/train_curve.py", flags | {"epochs": epochs}
    return MAKERS[name.kind][0], flags | {"epochs_curve": name.epoch, "point_t": name.t}


def _aligner(name: Name, recorded: Flags, flags: Flags) -> tuple[str, Flags] | None:
    """The script and flags that make a match, or what is measured with it; the method is recorded, or its name."""
    known = recorded.get("method", name.alignment)
    usual = f"{recorded['to']}_{known}" if "to" in recorded else str(known)
    flags = {**flags, "align_name": None if usual == name.alignment else name.alignment}
    methods = declared("alignment/align_models.py").choices("method")
    method, _, number = usual.rpartition("_")
    if method in methods and number.isdecimal():
        usual, flags = method, flags | {"align_images": int(number)}
    if usual.startswith("w2_") and usual in methods:
        return "alignment/align_models_w2.py", flags | {"pre_act": usual != "w2_post"}
    if usual in methods:
        twin = NETWORKS.get(name.model, OTHER).twin or "alignment/align_models.py"
        return twin, flags | {"method": None if usual == "corr" else usual}
    to, _, method = usual.partition("_")
    of_many = declared("alignment/align_many.py")
    if to in of_many.choices("to") and method in of_many.choices("method"):
        return "alignment/align_many.py", flags | {"to": to, "method": method, "seeds": name.seeds}
    return None


def _first(*lengths: object) -> int | None:
    """The first of these that is a number of epochs."""
    return next((length for length in lengths if isinstance(length, int) and length), None)


def _layout(name: Name, here: Here) -> Layout:
    return Layout(here.layout.root, name.model, name.dataset, name.robust, here.layout.replaced)


# --- what was run ------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One of the commands behind a result; words: on what and when it was run, as far as is known."""

    script: str
    command: str
    words: str


def steps(layout: Layout, path: Path) -> list[Step]:
    """The commands behind the result at `path`, in the order in which they were run, as far as they are known."""
    return list(dict.fromkeys(_steps(layout, path)))


def _steps(layout: Layout, path: Path) -> Iterator[Step]:
    name, record = read_name(path), load_record(path)
    epochs = record.flags.get("epochs_model", record.flags.get("epochs"))
    if name is None or not isinstance(epochs, int):
        return
    files = behind(layout, name.seeds, epochs, name.alignment or "", name.epoch or 0, name.variant)
    if _is_pams(name):  # its run is behind its match, and the match it began with
        pair, start = name.seeds[:2], name.alignment.removeprefix("pam_")
        stem = layout.curve_stem(name.alignment, *pair, Variant(name.variant.seed))
        first = {} if start == "null" else {"start": layout.match(start, *pair)}
        first |= {f"pam-{epoch}": kept(stem, epoch) for epoch in kept_epochs(stem)[-1:]}
        files = {end: files.pop(end) for end in "abc" if end in files} | first | files
        files = {part: file for part, file in files.items() if not part.startswith("match")}
    for file in (*files.values(), path):
        there, made = read_name(file), load_record(file)
        line = made_by(file, there, Here(layout), {}) if there and made else None
        if line:
            yield Step(shlex.split(line)[1], line, made.words)
