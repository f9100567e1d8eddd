"""Command lines: what comes next, what made a file, and what mends an error.

`flags` are always the flags of the running stage, by name (vars of what its parser returned).
"""

import contextlib
import difflib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from models import MODELS

from ..errors import FileError, UserError
from ..many import METHODS_OF_MANY, TO
from ..matching import METHODS
from .files import load_arrays, load_checkpoint
from .layout import (
    REPOSITORY,
    Layout,
    Name,
    Variant,
    kept,
    kept_epochs,
    model_folder,
    partial,
    read_name,
    rolling,
    tag,
)
from .parser import ROBUST_SCRIPTS, folder_flags


def default_transform(model: str | None, robust: bool) -> str:
    if robust:
        return "Adversarial_GoogLeNet" if model == "GoogLeNet" else "Adversarial"
    return model if model is None or model in MODELS else "standard"


def command(script: str, flags: Mapping[str, object], *names: str, **values: object) -> str:
    """The command line of a stage with the flags `names` as they are in `flags`, and `values` on top.

    For robust networks, that of its twin. It works in the folder and with the interpreter of this process.
    """
    given = {name: flags[name] for name in ("model", "dataset", *names) if name in flags} | values
    robust = flags.get("robust", False)
    script = ROBUST_SCRIPTS.get(script, script) if robust else script
    words = []
    if script.startswith(("training/", "alignment/", "evaluation/eval_")):
        if flags.get("transform") not in (None, default_transform(given.get("model"), robust)):
            given["transform"] = flags["transform"]
        for name, told in (("data_path", "data_path"), ("image_size", "image_size"), ("device", "asked_device")):
            if flags.get(told) is not None:
                given.setdefault(name, flags[told])
        words += _setting_words({"moments": flags.get("moments")})
        if not flags.get("use_test", True):
            words.append("--no-use_test")
    for name, folder in folder_flags(script, flags.get("replaced", {})).items():
        given.setdefault(name, folder)
    if flags["root"] != REPOSITORY:
        given["root"] = flags["root"]
    if robust and script not in ROBUST_SCRIPTS.values():
        words.append("--adversarial")
    return " ".join([_python(), _place(script), *_words(given), *words])


def _python() -> str:
    """The interpreter of this process as a shell calls it: python, if that name leads to it, or its path."""
    named, own, called = shutil.which("python"), Path(sys.executable), sys.orig_argv[0]
    if named and Path(named).parent.resolve() == own.parent.resolve() and Path(named).samefile(own):
        return "python"
    return shlex.quote(called if os.sep in called and Path(called).is_file() else str(own))


def _place(script: str) -> str:
    """The path of a script from the folder that this process is in."""
    path = REPOSITORY / script
    return shlex.quote(os.path.relpath(path) if REPOSITORY.is_relative_to(Path.cwd()) else str(path))


def _words(flags: Mapping[str, object]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", shlex.quote(str(value)))]


def made_with(script: str, settings: Mapping[str, object], *, root: Path, robust: bool = False) -> str:
    """The command line that the stored settings of a run or a result amount to; flags that are off are left out.

    It is for documents, and so for the repository's folder.
    """
    script = ROBUST_SCRIPTS.get(script, script) if robust else script
    words = [] if root == REPOSITORY else ["--root", shlex.quote(str(root))]
    words += ["--adversarial"] if robust and script not in ROBUST_SCRIPTS.values() else []
    return " ".join(["python", script, *words, *_setting_words(settings)])


def _setting_words(settings: Mapping[str, object]) -> list[str]:
    on_unless_told = ("use_test", "fix_start", "fix_end")
    words = []
    for name, value in settings.items():
        if name in on_unless_told:
            words += [] if value else [f"--no-{name}"]
        elif name == "moments" and value is not None:
            for flag, numbers in zip(("--mean", "--std"), value, strict=True):
                words.append(" ".join([flag, *map(str, numbers)]))
        elif name == "attack" and value is not None:
            numbers = zip(("--epsilon", "--attack_step", "--attack_steps"), value, strict=True)
            words += [f"{flag} {number!r}" for flag, number in numbers]
        elif value is True:
            words.append(f"--{name}")
        elif isinstance(value, tuple):  # a flag of several values; lists are what files keep
            words.append(" ".join([f"--{name}", *(shlex.quote(str(one)) for one in value)]))
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            words.append(f"--{name} {shlex.quote(str(value))}")
    return words


# The names under which scripts save matches by themselves, and the scripts; GoogLeNet's is a twin
MATCHERS = {name: f"alignment/align_models{'_w2' if one.distance else ''}.py" for name, one in METHODS.items()}
MATCHERS |= {f"{to}_{method}": "alignment/align_many.py" for to in TO for method in METHODS_OF_MANY}


def is_free(name: str, method: str) -> bool:
    """Whether a match by a method of alignment may have this name: that of no other method, in capitals or not."""
    lower = name.casefold()
    if lower.startswith("w2_") and not method.startswith("w2_"):
        return False
    for prefix in TO:  # of matches of many networks
        lower = lower.removeprefix(f"{prefix}_")
    return name == method or lower not in METHODS


def align_command(flags: Mapping[str, object], name: str = "corr", **values: object) -> str:
    """The command that makes the match `name`, one of MATCHERS."""
    script = MATCHERS[name]
    if script == "alignment/align_models.py" and values.get("model", flags["model"]) == "GoogLeNet":
        script = "alignment/align_googlenet.py"
    if script == "alignment/align_many.py":
        to, method = name.split("_")
        seeds = f" --seeds {values.pop('seed_a')} {values.pop('seed_b')}"
        return command(script, flags, **values, method=method, to=to) + seeds
    if not name.startswith("w2_") and name != "corr":
        values["method"] = name
    made = command(script, flags, **values)
    return made + " --pre_act" if name == "w2_post" else made


def curve_command(flags: Mapping[str, object], alignment: str, epochs: int, **values: object) -> str:
    """The command that learns a curve for `epochs` epochs: PAM's, for an alignment that PAM finds.

    values: further flags. PAM's curves are quadratic Bézier curves; others have only their ends from PAM.
    """
    if not tag(alignment).startswith("pam_") or {"num_bends", "curve"} & values.keys():
        return command("training/train_curve.py", flags, **values, alignment=alignment, epochs=epochs)
    start = tag(alignment).removeprefix("pam_").removeprefix("null")
    return command("training/train_curve_pam.py", flags, **values, alignment=start, inner_iters_phi=epochs)


def of_variant(variant: Variant) -> dict[str, object]:
    """The flags that name a curve which is not the usual one."""
    return variant.differing


def of_drawn_variant(variant: Variant) -> dict[str, object]:
    """The same for scripts that draw, to which the seed of the curve is known by another name."""
    told = of_variant(variant)
    return {("curve_seed" if flag == "seed" else flag): value for flag, value in told.items()}


# --- what mends an error -----------------------------------------------------------------------------------

# The stages that make each kind of file
MAKERS = {
    "endpoint": ("train_model.py", "train_model_adversarial.py", "import_checkpoint.py"),
    "model_history": ("train_model.py", "train_model_adversarial.py"),
    "curve": ("train_curve.py", "train_curve_adversarial.py", "train_curve_pam.py"),
    "curve_history": ("train_curve.py", "train_curve_adversarial.py", "train_curve_pam.py"),
    "match": ("align_models.py", "align_googlenet.py", "align_models_w2.py", "align_many.py", "train_curve_pam.py"),
    "matrices": ("align_models.py", "align_googlenet.py", "align_models_w2.py"),
    "evaluated": ("eval_curve.py", "eval_adversarial_curve.py"),
    "ensemble": ("eval_curve.py",),
    "along_curve": ("align_along_curve.py",),
    "plane_with_curve": ("eval_plane_with_curve.py",),
    "plane_with_alignment": ("eval_plane_with_alignment.py",),
}
MAKERS["correlation"] = MAKERS["match"]


def explain(error: UserError, flags: Mapping[str, object], script: str = "") -> str:
    """What an error says, and the command that mends it, in one line; `script` is the stage that runs."""
    if not isinstance(error, FileError) or not error.mend:
        return str(error)
    if error.mend == "resize":
        return f"{error}; give images one size with: --image_size N"
    if error.mend == "exchange":
        return f"{error}; put a sound image in its place, or move it out of the dataset"
    name = read_name(error.path)
    if name is None:
        return str(error)
    is_other = name.kind == "match" and flags.get("align_name", name.alignment) != name.alignment
    if not is_other and _makes(Path(script).name, name):
        return f"{error}; {_own_mending(error, name)}"
    # What the error says comes before what the running stage was told.
    made = _maker(name, {**flags, **error.flags, "robust": name.robust or flags.get("robust", False)})
    if error.mend == "make":
        if made and (begun := _run_begun(error.path, name)):
            return f"{error}; it is under way; go on with: {_with_settings(made, begun)} --resume"
        there = _there_is(error.path, name, flags)
        make = f"make it with: {made}" if made else "any other name is given by: align_models.py --align_name"
        return f"{error}; " + ", or ".join([*there, make])
    if made is None:
        return f"{error}; move it away" if error.mend == "remake" else str(error)
    made = _with_settings(made, error.flags)
    if error.mend == "continue":
        is_run = name.kind in ("endpoint", "model_history", "curve", "curve_history")
        made = _with_settings(made, _table_begun(error.path))
        return f"{error}; go on with: {made}" + (" --resume" if is_run else "")
    if error.mend == "resume":
        return f"{error}; go on with: {made} --resume"
    if error.mend == "replace":
        return f"{error}; make it anew with: {made} --overwrite"
    return f"{error}; move it away, and make it anew with: {made}"


def _with_settings(made: str, settings: Mapping[str, object]) -> str:
    """A command with the settings that it does not tell."""
    told = {name for name in settings if f" --{name} " in f"{made} "} | {"epochs_model"}  # for some scripts, --epochs
    untold = {name: value for name, value in settings.items() if name not in told}
    return " ".join([made, *_setting_words(untold)])


# Stored settings that are flags, and not told by the names of files
FLAGS_OF_TABLES = ("batch_size", "precision", "bn_images", "attack", "num_points", "eval_train", "repair")
FLAGS_OF_RUNS = ("batch_size", "precision", "lr", "wd", "lr_decay", "lr_drop")
FLAGS_OF_RUNS += ("momentum", "epsilon", "attack_step", "attack_steps", "fix_start", "fix_end", "init_linear_off")
FLAGS_OF_RUNS += ("outer_iters", "inner_iters_perm")


def _table_begun(path: Path) -> dict[str, object]:
    """The flags of the evaluation that began what is to be at `path`."""
    with contextlib.suppress(UserError, OSError, KeyError):
        settings = json.loads(str(load_arrays(partial(path))["settings"]))
        return {name: settings[name] for name in FLAGS_OF_TABLES if name in settings}
    return {}


def _run_begun(path: Path, name: Name) -> dict[str, object]:
    """The flags of the run under way that is to end with the checkpoint at `path`; {} if there is none."""
    if name.kind not in ("endpoint", "curve") or name.epoch is None:
        return {}
    return _told_by(rolling(path.with_name(path.name.removesuffix(f"-{name.epoch}.pt"))))


def _told_by(checkpoint: Path) -> dict[str, object]:
    """The flags of the run that left a checkpoint; {} if it tells none, or is not there."""
    with contextlib.suppress(UserError, OSError, KeyError):
        settings = load_checkpoint(checkpoint)["settings"]
        return {flag: settings[flag] for flag in FLAGS_OF_RUNS if flag in settings}
    return {}


def _makes(script: str, name: Name) -> bool:
    """Whether the stage is one that makes such a file itself. Of matches, PAM makes its own, and no others."""
    if name.kind == "match" and name.alignment.startswith("pam_") != (script == "train_curve_pam.py"):
        return False
    return script in MAKERS[name.kind]


def _own_mending(error: FileError, name: Name) -> str:
    """What mends a file of the kind that the running stage makes itself."""
    if error.mend == "resume":
        return "add --resume to go on, or --overwrite to begin anew"
    if error.mend == "replace":
        if name.kind == "match" and not name.alignment.startswith("pam_"):
            return "add --overwrite to replace it, or --align_name for a new one"
        return "use the same flags, or --overwrite to make it anew, or another --root"
    if error.mend == "remake":
        return "move it away, and run the same command again"
    return "run the same command again"


def _there_is(path: Path, name: Name, flags: Mapping[str, object]) -> list[str]:
    """What there is instead of a missing file: networks and paths of other epochs, other matches."""
    if name.kind == "match":
        pattern = f"match_*_seeds_{name.seeds[0]:02d}_{name.seeds[1]:02d}.npy"
        there = sorted(filter(None, map(read_name, path.parent.glob(pattern))))
        flag = "--init" if flags.get("init") else "--alignment"
        found = [f"there is {one.alignment}: {flag} {one.alignment}" for one in there]
        if name.alignment in MATCHERS or name.alignment.startswith("pam_"):
            return found
        typed = name.alignment.casefold()
        close = difflib.get_close_matches(typed, MATCHERS)
        meant = {one for one in MATCHERS if one in close or one.startswith(typed)} - {one.alignment for one in there}
        return found + ([f"{' or '.join(sorted(meant))} may be meant"] if meant else [])
    if name.kind not in ("endpoint", "curve", "evaluated", "plane_with_curve"):
        return []
    flag = "epochs_model" if name.kind == "endpoint" and "epochs_model" in flags else "epochs"
    flag = "epochs_curve" if name.kind != "endpoint" and "epochs_curve" in flags else flag
    finished = [file for file in path.parent.glob(f"*-*{path.suffix}") if not UNDER_WAY.search(file.name)]
    there = {other for other in map(read_name, finished) if other and other.kind == name.kind}
    of_epochs = {other.epoch for other in there if other._replace(epoch=name.epoch) == name}
    if epochs := sorted(of_epochs - {None, 0, name.epoch}):
        return [f"there is one of {epoch} epochs: --{flag} {epoch}" for epoch in epochs]
    return _seeds_there(there) if name.kind == "endpoint" else _paths_there(there, name, flag, flags)


UNDER_WAY = re.compile(r"-resume\.|\.partial\.|_(perm|phi)\d+-")  # in names of files that other stages do not read


def _seeds_there(there: Collection[Name]) -> list[str]:
    """The networks that there are, by their epochs."""
    seeds: dict[int, list[int]] = {}
    for name in sorted(there, key=lambda name: (name.epoch, name.seeds)):
        seeds.setdefault(name.epoch, []).extend(name.seeds)
    words = [f"seed {', '.join(map(str, those))} (of {epochs} epochs)" for epochs, those in seeds.items()]
    return [f"there is {' and '.join(words)}"] if words else []


def _paths_there(there: Collection[Name], name: Name, flag: str, flags: Mapping[str, object]) -> list[str]:
    """The paths that are likest to the missing one, by the flags that would name them; `flag`: that of the epochs.

    None where a script that shows several has others of them: it is what is missing that it tells then.
    """
    if any(_is_asked_for(other, flags) for other in there):
        return []
    ways = []
    for other in there:
        values: dict[str, object] = {}
        if other.seeds != name.seeds:
            values |= zip(("seed_a", "seed_b"), other.seeds, strict=True)
        if other.alignment != name.alignment:
            values["alignment"] = "" if other.alignment == "null" else other.alignment
        if other.epoch != name.epoch:
            values[flag] = other.epoch
        for field, value in other.variant._asdict().items():
            if value != getattr(name.variant, field):
                values["curve_seed" if (field, "curve_seed" in flags) == ("seed", True) else field] = value
        if other.epoch or name.kind == "evaluated":  # a line that is to be evaluated needs no file
            ways.append((len(values), " ".join(_words(values))))
    return [f"there is one with {' or '.join(words for _, words in sorted(ways)[:3])}"] if ways else []


def _is_asked_for(path: Name, flags: Mapping[str, object]) -> bool:
    """Whether a script that shows several paths shows this one: it is one that its flags name (None: all)."""
    if "pairs" not in flags:
        return False
    alignments = flags["alignment"] and [tag(name) for name in flags["alignment"]]
    asked = ((flags["pairs"], path.seeds), (alignments, path.alignment), (flags["epochs"], path.epoch))
    return all(values is None or value in values for values, value in asked)


def _maker(name: Name, flags: Mapping[str, object]) -> str | None:
    """The command that makes a file of this name; None if no command alone does."""
    # The name of a network in a file of the user's own is told as it was, since it is a path from where it is told.
    told = str(flags.get("model"))
    model = told if model_folder(told) == model_folder(name.model) else name.model
    where = {"model": model, "dataset": name.dataset}
    if name.kind in ("endpoint", "model_history"):
        epochs = name.epoch or flags.get("epochs_model") or flags.get("epochs")
        return command("training/train_model.py", flags, **where, seed=name.seeds[0], epochs=epochs)
    where |= dict(zip(("seed_a", "seed_b", "seed_c"), name.seeds, strict=False))
    epochs_model = _epochs_model(name, flags)
    if name.kind in ("match", "correlation", "matrices") and not name.alignment.startswith("pam_"):
        if name.alignment not in MATCHERS:
            return None
        made = align_command(flags, name.alignment, **where, epochs=epochs_model)
        return f"{made} --matrices" if name.kind == "matrices" else made
    where |= {"epochs_model": epochs_model, **of_variant(name.variant)}
    if name.kind in ("curve", "curve_history", "match", "correlation"):  # the last two of PAM
        stem = _layout(name, flags).curve_stem(name.alignment, *name.seeds, name.variant)
        lengths = (name.epoch, *(flags.get(flag) for flag in ("epochs_curve", "inner_iters_phi", "epochs")))
        lengths += tuple(kept_epochs(stem)[-1:])
        epochs = next((length for length in lengths if length and isinstance(length, int)), epochs_model)
        made, first = curve_command(flags, name.alignment, epochs, **where), stem.with_name(f"{stem.name}_perm1")
        there = (rolling(first), *(kept(first, epoch) for epoch in kept_epochs(first)[-1:]))
        return _with_settings(made, next(filter(None, map(_told_by, there)), {}))  # of PAM's first phase
    where["alignment"] = "" if name.alignment == "null" else name.alignment
    if name.kind == "plane_with_alignment":
        return command("evaluation/eval_plane_with_alignment.py", flags, **where)
    where["epochs_curve"] = name.epoch
    if name.kind == "along_curve":
        return command("alignment/align_along_curve.py", flags, **where, point_t=f"{name.t:g}")
    script = "eval_curve" if name.kind == "evaluated" else "eval_plane_with_curve"
    return command(f"evaluation/{script}.py", flags, **where)


def _layout(name: Name, flags: Mapping[str, object]) -> Layout:
    return Layout(flags["root"], name.model, name.dataset, flags["robust"], flags.get("replaced", {}))


def _epochs_model(name: Name, flags: Mapping[str, object]) -> int:
    """The epochs of the networks: as the flags say, or of those that are there, or those of the curve."""
    said = flags["epochs"] if "align_name" in flags else flags.get("epochs_model")
    if isinstance(said, int):
        return said
    newest: Sequence[int] = kept_epochs(_layout(name, flags).endpoint_stem(name.seeds[0]))[-1:]
    return newest[0] if newest else name.epoch or 250
