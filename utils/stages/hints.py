"""Command lines that scripts advise: what comes next, what makes a missing file, and what mends one."""

import importlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, UserError
from ..many import METHODS_OF_MANY, TO
from ..matching import METHODS
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
from .parser import DECLARED, PASSING, ROBUST_SCRIPTS, Declared, Parser, folder_flags
from .published import NETWORKS, OTHER, curve_epochs, default_transform, model_epochs
from .records import Record, behind, load_record

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

# The names under which scripts save matches by themselves, and the scripts; some networks have a twin
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


def declared(script: str) -> Parser | None:
    """The parser of a script that makes files; None for any other name, which a file may hold."""
    if not any(script in scripts for scripts in MAKERS.values()):
        return None
    try:
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args(DECLARED)
    except Declared as found:
        return found.parser


def _python() -> str:
    """The interpreter of this process as a shell calls it: python, if that name leads to it, or its path."""
    named, own, called = shutil.which("python"), Path(sys.executable), sys.orig_argv[0]
    if named and Path(named).parent.resolve() == own.parent.resolve() and Path(named).samefile(own):
        return "python"
    return called if os.sep in called and Path(called).is_file() else str(own)


def _place(script: str) -> str:
    """The path of a script from the folder that this process is in."""
    path = REPOSITORY / script
    return os.path.relpath(path) if REPOSITORY.is_relative_to(Path.cwd()) else str(path)


def _words(values: Mapping[str, object]) -> list[str]:
    """Flags as they are typed; those that are off or None are left out."""
    words = []
    for name, value in values.items():
        several = value if isinstance(value, (list, tuple)) else [] if value is True else [value]
        words += [] if value is None or value is False else [f"--{name}", *map(str, several)]
    return words


@dataclass(frozen=True)
class Stage:
    """The script that runs, as far as the commands that it advises depend on it.

    told: the values of its flags, by name. document: whether the commands are for a page, and so for somebody in the
        repository's folder, and not for the user of this process.
    """

    told: Mapping[str, object]
    document: bool = False

    def command(self, script: str, **values: object) -> str:
        """The command line of a script with these flags, for the same images, device and folders.

        For robust networks, that of its twin.
        """
        script = self._twin(script)
        same = {name: self.told[name] for name in ("model", "dataset") if name in self.told} | values
        return self._line(script, _words(same | self._images(script, same) | self._where(script)))

    def align_command(self, name: str = "corr", **values: object) -> str:
        """The command that makes the match `name`, one of MATCHERS, of the networks that the running script has."""
        script, flags = _aligner(name, {"model": self.told["model"], **values})
        return self.command(script, **flags)

    def _line(self, script: str, words: Sequence[str]) -> str:
        start = ["python", script] if self.document else [_python(), _place(script)]
        return shlex.join([*start, *words])

    def _twin(self, script: str) -> str:
        return ROBUST_SCRIPTS.get(script, script) if self.told.get("robust") else script

    def _is_for(self, script: str) -> bool:
        """Whether a script that has a twin is the one for networks as these."""
        return script not in (ROBUST_SCRIPTS if self.told.get("robust") else ROBUST_SCRIPTS.values())

    def _images(self, script: str, values: Mapping[str, object]) -> dict[str, object]:
        """The flags of a script that say how images are read, where they are not the usual and not in `values`."""
        told, computes = self.told, script.startswith(("training/", "alignment/", "evaluation/eval_"))
        if not computes or self.document:
            return {}
        usual = default_transform(values.get("model"), bool(told.get("robust")))
        flags = {name: told.get(name) for name in ("image_size", "mean", "std")}
        flags["transform"] = None if told.get("transform") == usual else told.get("transform")
        flags["no-use_test"] = not told.get("use_test", True)
        return {name: value for name, value in flags.items() if name not in values}

    def _where(self, script: str) -> dict[str, object]:
        """The flags of a script that say where things are and where it computes."""
        told, flags = self.told, {}
        if script.startswith(("training/", "alignment/", "evaluation/eval_")):
            flags = {"data_path": told.get("data_path"), "device": told.get("asked_device")}
        flags |= folder_flags(script, told.get("replaced", {}))
        flags["root"] = None if told["root"] == REPOSITORY else told["root"]
        return flags | {"adversarial": bool(told.get("robust")) and script not in ROBUST_SCRIPTS.values()}

    # --- what mends an error ---------------------------------------------------------------------------------

    def explain(self, error: UserError, script: str = "") -> str:
        """What an error says, and the command that mends it, in one line; `script` is the one that runs."""
        if not isinstance(error, FileError) or not error.mend:
            return str(error)
        if error.mend == "resize":
            return f"{error}; give images one size with: --image_size N"
        if error.mend == "exchange":
            return f"{error}; put a sound image in its place, or move it out of the dataset"
        name = read_name(error.path)
        if name is None:
            return str(error)
        is_other = name.kind == "match" and self.told.get("align_name", name.alignment) != name.alignment
        if not is_other and _makes(Path(script).name, name):
            return f"{error}; {_own_mending(error, name)}"
        # What the error says comes before what the running script was told.
        robust = name.robust or self.told.get("robust", False)
        stage = Stage({**self.told, **error.flags, "robust": robust}, self.document)
        if error.mend == "make":
            return f"{error}; {stage._make(error.path, name)}"
        made = stage.made_by(error.path, name, **error.flags)
        if made is None:
            return f"{error}; move it away" if error.mend == "remake" else str(error)
        resumes = error.mend == "resume" or name.kind in ("endpoint", "model_history", "curve", "curve_history")
        if error.mend in ("continue", "resume"):
            return f"{error}; go on with: {made}" + (" --resume" if resumes else "")
        if error.mend == "replace":
            return f"{error}; make it anew with: {made} --overwrite"
        return f"{error}; move it away, and make it anew with: {made}"

    def _make(self, path: Path, name: Name) -> str:
        """What makes a missing file, or goes on with the run that is to make it; and what there is instead."""
        length = {} if name.epoch is None else {"epochs": name.epoch}
        run = self._run_of(path, name)
        made = run and self.made_by(run, name, **length)
        if made and run.stem.endswith("-resume"):
            return f"it is under way; go on with: {made} --resume"
        if not made and (maker := self._maker(name)):
            made = self.command(maker[0], **maker[1])
        make = f"make it with: {made}" if made else "any other name is given by: align_models.py --align_name"
        return ", or ".join([*self._there_is(path, name), make])

    def made_by(self, path: Path, name: Name, **changes: object) -> str | None:
        """The command that made the file at `path`, or began it, as it is recorded, with `changes` of its flags.

        name: of that file, or of another one that the same command makes. It says which network and dataset they
            belong to, and this process where they are, whatever the record says. Of files from before commands were
            recorded: the command that their names and the flags recorded amount to; None where these do not suffice.
        """
        record = load_record(path if path.exists() else partial(path))
        script = record.command[0] if record.command else ""
        parser = declared(script) if script in MAKERS[name.kind] and self._is_for(script) else None
        typed = parser.chunks(record.command[1:]) if parser else None
        where = {"model": self._model(name), "dataset": name.dataset}
        if typed is None:
            made = self._maker(name, record)
            if made is None:
                return None
            parser = declared(self._twin(made[0]))
            values = where | made[1]
            if not record:
                values |= self._images(parser.script, values)
                values["use_test"] = not values.pop("no-use_test", False)
            values |= {flag: value for flag, value in record.flags.items() if flag not in values}
            typed = {flag: parser.words(flag, value) for flag, value in values.items()}
            typed |= {"": [record.origin]} if record.origin else {}
        if parser.script.endswith("_pam.py") and "epochs" in changes:
            changes["inner_iters_phi"] = changes.pop("epochs")
        return self._changed(parser, typed, changes | where)

    def again(self, record: Record, **changes: object) -> str:
        """The command of this process with `changes` of its flags."""
        parser = declared(record.command[0])
        return self._changed(parser, parser.chunks(record.command[1:]), changes)

    def _changed(self, parser: Parser, typed: Mapping[str, list[str]], changes: Mapping[str, object]) -> str:
        """A command line in words, by flags, with some changed, and where things are now."""
        typed = {flag: words for flag, words in typed.items() if flag not in PASSING}
        here = {flag: value for flag, value in self._where(parser.script).items() if value}
        here["robust"] = here.pop("adversarial", False)
        typed |= {flag: parser.words(flag, value) for flag, value in {**changes, **here}.items()}
        return self._line(parser.script, [word for words in typed.values() for word in words])

    def _run_of(self, path: Path, name: Name) -> Path | None:
        """A checkpoint of the run that is to make the file at `path`: of one under way, or of any part of PAM's."""
        is_pam = (name.alignment or "").startswith("pam_") and name.variant == Variant(name.variant.seed)
        if name.kind in ("endpoint", "curve") and not is_pam and name.epoch is not None:
            newest = rolling(path.with_name(path.name.removesuffix(f"-{name.epoch}.pt")))
            return newest if load_record(newest) else None
        if not is_pam or name.kind not in ("curve", "match", "correlation"):
            return None
        stem = self._layout(name).curve_stem(name.alignment, *name.seeds, name.variant)
        parts = re.compile(re.escape(stem.name) + r"(_(perm|phi)\d+)?-(resume|[1-9]\d*)\.pt")
        found = [file for file in sorted(stem.parent.glob(f"{stem.name}*.pt")) if parts.fullmatch(file.name)]
        return max(found, key=lambda file: file.stem.endswith("-resume"), default=None)

    def _there_is(self, path: Path, name: Name) -> list[str]:
        """What there is instead of a missing file: other matches, networks and paths of other epochs."""
        if name.kind == "match":
            pattern = f"match_*_seeds_{name.seeds[0]:02d}_{name.seeds[1]:02d}.npy"
            flag = "--init" if self.told.get("init") else "--alignment"
            there = sorted(filter(None, map(read_name, path.parent.glob(pattern))))
            return [f"there is {one.alignment}: {flag} {one.alignment}" for one in there]
        if name.kind not in ("endpoint", "curve", "evaluated", "plane_with_curve"):
            return []
        named = "epochs_model" if name.kind == "endpoint" else "epochs_curve"
        flag = named if named in self.told else "epochs"
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

    def _maker(self, name: Name, record: Record | None = None) -> tuple[str, dict[str, object]] | None:
        """The script and flags that make a file of this name, and with this record; None if no script alone does."""
        told, recorded = self.told, record.flags if record else {}
        flags: dict[str, object] = {"model": self._model(name), "dataset": name.dataset}
        if name.kind in ("endpoint", "model_history"):
            epochs = name.epoch or told.get("epochs_model") or told.get("epochs")
            script = "import_checkpoint" if record and record.origin else "train_model"
            return f"training/{script}.py", flags | {"seed": name.seeds[0], "epochs": epochs}
        flags |= zip(("seed_a", "seed_b", "seed_c"), name.seeds, strict=False)
        epochs_model = recorded.get("epochs_model", recorded.get("epochs", self._epochs_model(name)))
        is_pam = name.alignment.startswith("pam_")
        if name.kind in ("match", "correlation", "matrices") and not is_pam:
            return self._matcher(name, recorded, flags | {"epochs": epochs_model})
        flags |= {"epochs_model": epochs_model, **name.variant.differing}
        if name.kind in ("curve", "curve_history", "match", "correlation"):  # the last two are PAM's
            stem = self._layout(name).curve_stem(name.alignment, *name.seeds, name.variant)
            lengths = (name.epoch, *(told.get(flag) for flag in ("epochs_curve", "inner_iters_phi", "epochs")))
            lengths += (*kept_epochs(stem)[-1:], epochs_model)
            epochs = next(length for length in lengths if length and isinstance(length, int))
            return _learner(name.alignment, epochs, flags)
        flags["alignment"] = "" if name.alignment == "null" else name.alignment
        if name.kind == "plane_with_alignment":
            return "evaluation/eval_plane_with_alignment.py", flags
        flags["epochs_curve"] = name.epoch
        if name.kind == "along_curve":
            return "alignment/align_along_curve.py", flags | {"point_t": f"{name.t:g}"}
        return f"evaluation/{'eval_plane_with_curve' if name.kind == 'plane_with_curve' else 'eval_curve'}.py", flags

    def _matcher(
        self, name: Name, recorded: Mapping[str, object], flags: dict[str, object]
    ) -> tuple[str, dict[str, object]] | None:
        """The script and flags that make a match, or what is measured with it."""
        if name.kind == "matrices":
            flags["matrices"] = True
        if name.alignment in MATCHERS:
            return _aligner(name.alignment, flags)
        method = str(recorded.get("method", ""))
        usual = f"{recorded['to']}_{method}" if "to" in recorded else method
        return _aligner(usual, flags | {"align_name": name.alignment}) if usual in MATCHERS else None

    def _model(self, name: Name) -> str:
        """The network of a file, as this process was told it: the path of a user's file is from where it is told."""
        told = str(self.told.get("model"))
        return told if model_folder(told) == model_folder(name.model) else name.model

    def _layout(self, name: Name) -> Layout:
        return Layout(self.told["root"], name.model, name.dataset, name.robust, self.told.get("replaced", {}))

    def _epochs_model(self, name: Name) -> int:
        """The epochs of the networks: as the flags say, or of those that are there, or those of the curve."""
        said = self.told["epochs"] if "align_name" in self.told else self.told.get("epochs_model")
        newest = kept_epochs(self._layout(name).endpoint_stem(name.seeds[0]))[-1:]
        if isinstance(said, int) or newest:
            return said if isinstance(said, int) else newest[0]
        is_usual = name.epoch in (None, 0, curve_epochs(name.model, name.robust))
        return model_epochs(name.robust) if is_usual else name.epoch


def _aligner(name: str, flags: dict[str, object]) -> tuple[str, dict[str, object]]:
    """The script and flags that make the match `name`, one of MATCHERS."""
    script, flags = MATCHERS[name], dict(flags)
    if script == "alignment/align_many.py":
        flags["to"], flags["method"] = name.split("_")
        flags["seeds"] = flags.pop("seed_a"), flags.pop("seed_b")
    elif script == "alignment/align_models.py":
        script = NETWORKS.get(flags["model"], OTHER).twin or script
        flags |= {} if name == "corr" else {"method": name}
    elif name == "w2_post":
        flags["pre_act"] = True
    return script, flags


def _learner(alignment: str, epochs: int, flags: dict[str, object]) -> tuple[str, dict[str, object]]:
    """The script and flags that learn a curve: PAM's, for an alignment that PAM finds.

    PAM's curves are quadratic Bézier curves; others have only their ends from PAM.
    """
    if not tag(alignment).startswith("pam_") or {"num_bends", "curve"} & flags.keys():
        alignment = "" if alignment == "null" else alignment
        return "training/train_curve.py", flags | {"alignment": alignment, "epochs": epochs}
    start = tag(alignment).removeprefix("pam_").removeprefix("null")
    return "training/train_curve_pam.py", flags | {"alignment": start, "inner_iters_phi": epochs}


def _makes(script: str, name: Name) -> bool:
    """Whether a script makes such a file itself. Of matches, PAM makes its own, and no others."""
    if name.kind == "match" and name.alignment.startswith("pam_") != (script == "train_curve_pam.py"):
        return False
    return any(Path(one).name == script for one in MAKERS[name.kind])


def _own_mending(error: FileError, name: Name) -> str:
    """What mends a file of the kind that the running script makes itself."""
    if error.mend == "resume":
        return "add --resume to go on, or --overwrite to begin anew"
    if error.mend == "replace":
        if name.kind == "match" and not name.alignment.startswith("pam_"):
            return "add --overwrite to replace it, or --align_name for a new one"
        return "use the same flags, or --overwrite to make it anew, or another --root"
    return "move it away, and run the same command again" if error.mend == "remake" else "run the same command again"


def documented(script: str, values: Mapping[str, object], *, root: Path, robust: bool = False) -> str:
    """The command line of a script with these flags, for a page, and so for the repository's folder."""
    return Stage({"root": root, "robust": robust}, True).command(script, **values)


class Step(NamedTuple):
    """One of the commands behind a result; words: on what and when it was run, as far as is known."""

    script: str
    command: str
    words: str


def steps(layout: Layout, path: Path) -> list[Step]:
    """The commands behind the result at `path`, in the order in which they were run, as far as they are known."""
    name, record = read_name(path), load_record(path)
    epochs = record.flags.get("epochs_model", record.flags.get("epochs"))
    if name is None or not isinstance(epochs, int):
        return []
    files = behind(layout, name.seeds, epochs, name.alignment or "", name.epoch or 0, name.variant)
    if (name.alignment or "").startswith("pam_"):
        start = name.alignment.removeprefix("pam_")
        stem = layout.curve_stem(name.alignment, *name.seeds[:2], Variant(name.variant.seed))
        first = {} if start == "null" else {"start": layout.match(start, *name.seeds[:2])}
        first |= {f"pam-{epoch}": kept(stem, epoch) for epoch in kept_epochs(stem)[-1:]}
        ends = {end: files.pop(end) for end in "abc" if end in files}
        files = ends | first | {other: file for other, file in files.items() if other == "curve"}
    stage, found = Stage({"root": layout.root, "robust": layout.robust, "model": layout.model}, True), []
    for file in (*files.values(), path):
        there = read_name(file)
        made = there and load_record(file) and stage.made_by(file, there)
        if made:
            found.append(Step(shlex.split(made)[1], made, load_record(file).words))
    return list(dict.fromkeys(found))
