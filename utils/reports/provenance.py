"""What was run for a result: the commands behind its networks, match, curve and itself, as all their files tell."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..stages import sources
from ..stages.files import load_checkpoint
from ..stages.layout import Layout, Name, Variant, kept, kept_epochs, read_name
from ..stages.originals import load_arrays, stand_in
from . import results


class Step(NamedTuple):
    """One command: a script, the flags that its settings amount to, and on what and when it was run, if known.

    file: what it is given besides flags.
    """

    script: str
    flags: dict[str, object]
    made: dict[str, str]  # torch, python, device, date
    file: str = ""

    @property
    def words(self) -> str:
        """As "torch 2.8.0, Python 3.12.3, cpu, 2025-11-01"; nothing of files that do not tell."""
        made = self.made
        return f"torch {made['torch']}, Python {made['python']}, {made['device']}, {made['date']}" if made else ""


# What settings tell besides the flags of the stage
NO_FLAGS = {"points", "images", "num_classes", "trained", "height", "measured_on", "ends", "sources", "made"}
NO_FLAGS |= {"method"}

EVALUATIONS = {
    "evaluated": "evaluation/eval_curve.py",
    "plane_with_curve": "evaluation/eval_plane_with_curve.py",
    "plane_with_alignment": "evaluation/eval_plane_with_alignment.py",
    "along_curve": "alignment/align_along_curve.py",
}


def steps(layout: Layout, path: Path) -> list[Step]:
    """The commands behind the result at `path`, in the order in which they were run, as far as they are known."""
    name, settings = read_name(path), _settings(path)
    if name is None:
        return []
    epochs = settings.get("epochs_model", settings.get("epochs"))
    found = []
    if isinstance(epochs, int):
        files = sources.behind(layout, name.seeds, epochs, name.alignment, name.epoch or 0, name.variant)
        is_of_pam = name.alignment.startswith("pam_")
        found += [_trained(files[end], "train_model.py", {"epochs": epochs}) for end in "abc" if end in files]
        if is_of_pam:
            start = name.alignment.removeprefix("pam_")
            for match, seed in zip(("match", "match_c"), name.seeds[1:], strict=False):
                files[match] = stand_in(layout.match(start, name.seeds[0], seed))
        found += [_matched(files[match]) for match in ("match", "match_c") if match in files]
        own = Variant(name.variant.seed)  # of the curve with which PAM finds a match
        is_own = is_of_pam and bool(name.epoch) and name.variant == own
        if is_of_pam and len(name.seeds) == 2:
            stem = layout.curve_stem(name.alignment, *name.seeds, own)
            lengths = [name.epoch] if is_own else kept_epochs(stem)[-1:]
            found += [_trained(kept(stem, n), "train_curve_pam.py", {"inner_iters_phi": n}) for n in lengths]
        if "curve" in files and not is_own:
            found.append(_trained(files["curve"], "train_curve.py", {"epochs": name.epoch}))
    if name.kind in EVALUATIONS:
        found.append(_step(EVALUATIONS[name.kind], _of_path(name, layout), settings))
    return [step for step in found if step is not None]


def _settings(path: Path) -> dict[str, object]:
    """The settings of a result; {} if it tells none."""
    try:
        return results.noted_settings(path) if path.suffix == ".npy" else results.settings_of(load_arrays(path))
    except UserError:
        return {}


def _step(script: str, of: Mapping[str, object], settings: Mapping[str, object]) -> Step:
    flags = {name: value for name, value in settings.items() if name not in NO_FLAGS}
    made = settings.get("made")
    return Step(script, {**of, **flags}, made if isinstance(made, dict) else {})


def _of_path(name: Name, layout: Layout) -> dict[str, object]:
    seeds = zip(("seed_a", "seed_b", "seed_c"), name.seeds, strict=False)
    pair = {"model": layout.model, "dataset": layout.dataset, **dict(seeds)}
    pair["alignment"] = "" if name.alignment == "null" else name.alignment
    return pair if name.epoch is None else pair | {"epochs_curve": name.epoch, **name.variant.differing}


def _trained(path: Path, script: str, length: dict[str, object]) -> Step | None:
    """The run behind a checkpoint, if it is there and tells: results may be looked at where the networks are not."""
    try:
        settings = load_checkpoint(path).get("settings")
    except UserError:
        return None
    if not isinstance(settings, dict):
        return None
    if isinstance(file := settings.get("imported"), str):
        script, settings = "import_checkpoint.py", {name: settings[name] for name in settings.keys() - {"imported"}}
        return _step(f"training/{script}", {}, settings | length)._replace(file=file)
    return _step(f"training/{script}", {}, settings | length)


def _matched(path: Path) -> Step | None:
    """The alignment behind a match, if that is there and tells."""
    settings, name = results.noted_settings(path) if path.is_file() else {}, read_name(path)
    if not settings or name is None:
        return None
    method = settings.get("method")
    if isinstance(seeds := settings.get("seeds"), list):
        usual = f"{settings.get('to')}_{method}"
        flags = {"seeds": tuple(seeds), "method": method}
        flags |= {} if name.alignment == usual else {"align_name": name.alignment}
        return _step("alignment/align_many.py", {}, settings | flags)
    flags = {"seed_a": name.seeds[0], "seed_b": name.seeds[1]}
    flags |= {} if method == "corr" else {"method": method}
    flags |= {} if name.alignment == method else {"align_name": name.alignment}
    return _step("alignment/align_models.py", flags, settings)


ORDER = ("training/train_model", "alignment/align_models", "training/", "")  # in which scripts are run


def order(step: Step) -> int:
    """By which steps of several results are sorted."""
    return next(place for place, start in enumerate(ORDER) if step.script.startswith(start))


def results_in(root: Path, note: str) -> list[tuple[Path, Layout, str]]:
    """The results of which a figure tells and that are there: each with its layout, and what its digest was."""
    try:
        digests = {root / name: digest for name, digest in json.loads(note or "{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):  # of a hostile picture
        return []
    there = [(path, read_name(path), digest) for path, digest in digests.items() if path.is_file()]
    return [
        (path, Layout(root, name.model, name.dataset, name.robust), digest) for path, name, digest in there if name
    ]
