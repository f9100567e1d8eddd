"""What made a file, recorded in it: the command, the flags that decide its outcome, digests of its inputs, versions.

Whoever asks whether a file is current, may be gone on with, or how it was made, reads this record.
"""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import FileError, UserError
from .files import load_arrays, read, read_array
from .layout import USUAL, Layout, Name, Variant, full_name, model_of, read_name, tag
from .matches import load_match
from .originals import load_checkpoint, stand_in


@dataclass(frozen=True)
class Record:
    """Empty for a file of other code.

    command: the script and its arguments as they were typed, but for those that may change when it is run again
        (`parser.PASSING`); () in files from before commands were recorded.
    flags: the values, by name, that decide the outcome besides what the file's name says.
    inputs: digests, by name, of the files, images and code that it was made from.
    trained: for each of these files, the flags of the run that made it.
    made: versions of torch and Python, device and day.
    cost: seconds and memory (MB), where they were measured.
    path: the end of the path under which it was written: of which network, dataset, seeds and alignment it is.
    network: the network's name; a user's with the path of its file, of which that path has only a digest.
    new: values that flags had before there were these flags, for comparisons with older files; not stored.
    """

    command: tuple[str, ...] = ()
    flags: Mapping[str, object] = field(default_factory=dict)
    inputs: Mapping[str, object] = field(default_factory=dict)
    trained: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    path: str = ""
    network: str = ""
    new: Mapping[str, object] = field(default_factory=dict)

    def of(self, files: Mapping[str, Path] | None = None, **inputs: object) -> "Record":
        """The record of what is made from `files` and other `inputs`, given by their digests."""
        known = {name: summary for name, path in (files or {}).items() if (summary := _summary(path))}
        found = {name: digest for name, (digest, _) in known.items()} | inputs
        trained = {name: record.flags for name, (_, record) in known.items() if not name.startswith("match")}
        return dataclasses.replace(self, inputs={**self.inputs, **found}, trained={**self.trained, **trained})

    def at(self, path: Path) -> "Record":
        """The record of the file at `path`."""
        return dataclasses.replace(self, path="/".join(path.parts[-3:]) if read_name(path) else "")

    def having(self, *, before: Mapping[str, object] | None = None, **flags: object) -> "Record":
        """With more that decides the outcome and is no flag. before: what that was in files that do not say so."""
        return dataclasses.replace(self, flags={**self.flags, **flags}, new={**self.new, **(before or {})})

    def without(self, *names: str) -> "Record":
        """Without flags that do not concern one of a stage's results."""
        kept = {name: value for name, value in self.flags.items() if name not in names}
        return dataclasses.replace(self, flags=kept)

    def stored(self) -> dict[str, object]:
        """As it stands in a checkpoint, or in JSON."""
        parts = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name != "new"}
        return {name: list(part) if name == "command" else part for name, part in parts.items() if part}

    def __bool__(self) -> bool:
        return bool(self.flags or self.inputs)

    @property
    def words(self) -> str:
        """As "torch 2.8.0, Python 3.12.3, cpu, 2025-11-01"; nothing of files that do not record it."""
        made = self.made
        known = made.keys() >= {"torch", "python", "device", "date"}
        return f"torch {made['torch']}, Python {made['python']}, {made['device']}, {made['date']}" if known else ""


def record_in(content: Mapping[str, object]) -> Record:
    """The record in a checkpoint, in a note, or among arrays; of older files, what their `settings` say."""
    stored = _as_dict(content.get("record")) or _from_settings(_as_dict(content.get("settings")))
    parts = {name: _as_dict(stored.get(name)) for name in ("flags", "inputs", "made", "cost", "trained")}
    parts["trained"] = {name: _as_dict(flags) for name, flags in parts["trained"].items()}
    command = stored.get("command")
    is_command = isinstance(command, list) and all(isinstance(word, str) and word.isprintable() for word in command)
    parts |= {name: str(stored.get(name, "")) for name in ("path", "network")}
    return Record(tuple(command) if is_command else (), **parts)


def _as_dict(value: object) -> dict[str, object]:
    value = json.loads(str(value)) if isinstance(value, np.ndarray) else value
    return value if isinstance(value, dict) else {}


def _from_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """The record that files had before: one dictionary of flags, some of them together, digests, and all the rest."""
    flags = dict(settings)
    parts = {name: flags.pop(name, {}) for name in ("trained", "made", "sources", "taken", "imported", "num_classes")}
    inputs = {name: flags.pop(name) for name in ("points", "images", "ends") if name in flags}
    for name, parted in {"moments": ("mean", "std"), "attack": ("epsilon", "attack_step", "attack_steps")}.items():
        if name in flags:
            values = flags.pop(name)
            flags |= zip(parted, values if isinstance(values, (list, tuple)) else [None] * len(parted), strict=False)
    return parts | {"flags": flags, "inputs": _as_dict(parts["sources"]) | inputs, "cost": parts["taken"]}


def load_record(path: Path) -> Record:
    """The record of a file; an empty one of a file that is not there, is damaged, or was made by other code."""
    if path.suffix == ".pt":
        summary = _summary(path)
        return summary[1] if summary else Record()
    try:
        is_array = path.suffix == ".npy"
        return record_in(read(path, "an array", lambda: read_array(path)[1]) if is_array else load_arrays(path))
    except UserError:
        return Record()


def network_of(path: Path, name: Name) -> str:
    """The network of a file: the one that its name says, or where that is a digest, the one that is recorded."""
    return ("=" in name.model and load_record(path).network) or name.model


# --- what is not the same ----------------------------------------------------------------------------------

# What inputs are called, by the names under which their digests are recorded
WORDS = {
    **dict.fromkeys(("a", "b", "c", "points", "ends"), "other networks"),
    **dict.fromkeys(("match", "match_c"), "another match"),
    "curve": "another curve",
    "images": "other images",
    "code": "another definition of the network",
    "loss": "another definition of the task",
}


def other_inputs(before: Record, inputs: Mapping[str, object]) -> str:
    """In words, what is known of both and is not the same, as "other networks and another match"; or nothing."""
    both = before.inputs.keys() & inputs.keys()
    files = {"a", "b", "c", "match", "match_c", "curve"}
    if "points" in both and before.inputs["points"] == inputs["points"]:
        both -= files  # whichever files they are in, and in whatever form
    elif {"a", "b"} <= both:
        both -= {"points"}  # a point may be another because a match or a curve is
    other = [words for name, words in WORDS.items() if name in both and before.inputs[name] != inputs[name]]
    return " and ".join(dict.fromkeys(other))


def other_flags(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """The flags, by name, that are known of both and have two values: those values."""
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def unlike(before: Record, now: Record) -> str | None:
    """How a file with the record `before` is not what one with that of `now` would be, as "was made …"; or None."""
    if not before:
        return "does not record how it was made"
    inputs = other_inputs(before, now.inputs)
    changed = other_flags({**now.new, **before.flags}, now.flags).items()
    values = {name: ["none" if value is None else value for value in pair] for name, pair in changed}
    flags = ", ".join(f"{name} {old} (now {new})" for name, (old, new) in values.items())
    parts = [f"from {inputs}" if inputs else "", f"with {flags}" if flags else ""]
    return f"was made {', '.join(filter(None, parts))}" if inputs or flags else None


def expect_named(path: Path, record: Record) -> Record:
    """The record of the file at `path`. FileError if that was written as something else than its name says.

    Files of before tell it by what they were made from, or not at all.
    """
    name, written = read_name(path), read_name(Path(record.path))
    if name is None:
        return record
    epochs = {name.epoch, written.epoch if written else None}
    if written and (_identity(Path(record.path)) != _identity(path) or len(epochs - {None}) > 1):
        raise FileError(path, f"was written as {record.path}, which its name does not say", "remake")
    seed = record.flags.get("seed", name.seeds[0])
    is_point = "t" in record.flags  # of a path, whose seed is another thing, put in a network's place by --out
    if not written and name.kind == "endpoint" and not is_point and seed != name.seeds[0]:
        raise FileError(path, f"was trained with seed {seed}, which its name does not say", "remake")
    return record


def _identity(path: Path) -> tuple[str, str, str]:
    """Network, dataset and name of a file, but for its epoch; the network of a user's file may be elsewhere now."""
    stem = re.sub(r"(-\d+|-resume)?(\.partial)?\.\w+$", "", path.name)
    return model_of(path.parts[-3]).rpartition("/")[2], path.parts[-2], stem


def expect_current(layout: Layout, path: Path, record: Record) -> None:
    """FileError if a result was made with other networks, match, curve or code than there are now.

    What its record does not say, and files that are not there any more, are not compared.
    """
    expect_named(path, record)
    name, epochs = read_name(path), record.flags.get("epochs_model", record.flags.get("epochs"))
    if name is None or not record.inputs or not isinstance(epochs, int):
        return
    files = behind(layout, name.seeds, epochs, name.alignment or "", name.epoch or 0, name.variant)
    parts = {"match", "match_c", "curve"}
    if {"a", "b"} <= record.inputs.keys() and parts & record.inputs.keys() != parts & files.keys():
        of = " and ".join(sorted(parts & record.inputs.keys())) or "no match and no curve"
        raise FileError(path, f"was made with {of}, which its name does not say", "replace")
    known = {file: path for file, path in files.items() if file in record.inputs}
    now = Record().of(known, **code_digest(record.network or layout.model)).inputs
    if other := other_inputs(record, now):
        raise FileError(path, f"was made with {other} than there are now", "replace")


def behind(
    layout: Layout,
    seeds: tuple[int, ...],
    epochs_model: int,
    alignment: str = "",
    epochs_curve: int = 0,
    variant: Variant = USUAL,
) -> dict[str, Path]:
    """The files that a path between two networks is made from: a, b, and match and curve if it has them.

    The plane of three networks has c and match_c, of C to A, besides.
    """
    files = {end: layout.endpoint(seed, epochs_model) for end, seed in zip("abc", seeds, strict=False)}
    if tag(alignment) != "null":
        for name, seed in zip(("match", "match_c"), seeds[1:], strict=False):
            files[name] = stand_in(layout.match(tag(alignment), seeds[0], seed, variant))
    if epochs_curve:
        files["curve"] = stand_in(layout.curve(alignment, *seeds, epochs_curve, variant))
    return files


# --- digests -----------------------------------------------------------------------------------------------


def _summary(path: Path) -> tuple[str, Record] | None:
    """The digest of a file's content, which tells weights apart and not when they were written, and its record.

    None if nothing is there, or nothing that can be read.
    """
    try:
        status = path.stat()
        return _read_summary(path, status.st_mtime_ns, status.st_size)
    except (OSError, UserError, RuntimeError, AttributeError, TypeError):  # other code's tensors can be of odd kinds
        return None


@functools.cache
def _read_summary(path: Path, _mtime: int, _size: int) -> tuple[str, Record]:
    if path.suffix == ".npy":
        return digest_of((str(i), row) for i, row in enumerate(load_match(path).rows)), Record()
    checkpoint = load_checkpoint(path)
    points = checkpoint.get("points") or {"": checkpoint["model_state"]}
    digest = digest_of(
        (f"{index}.{name}", value.contiguous().reshape(-1).view(torch.uint8).numpy())
        for index, state in points.items()
        for name, value in state.items()
    )
    return digest, record_in(checkpoint)


def digest_of(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 (hex) of arrays with their names."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def code_digest(model: str) -> dict[str, str]:
    """The digest of the code that defines a network, or is in FILE.py:NAME, without comments and documentation."""
    words, begins = [], True
    try:
        for token in tokenize.generate_tokens(io.StringIO(definition(full_name(model))).readline):
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                is_documentation = token.type == tokenize.STRING and begins
                words += [] if is_documentation else [token.string]
                begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    except (OSError, SyntaxError, tokenize.TokenError):
        return {}
    text = "".join(words)
    return {"code": hashlib.sha256(text.encode()).hexdigest()} if text else {}


def definition(model: str) -> str:
    """The code that defines a network: a file of ours or the user's, or the classes beside a library's factory.

    '' if there is no such network here.
    """
    source, _, name = model.rpartition(":")
    if source not in ("torchvision", "timm"):
        path = Path(source).expanduser() if source else Path("models", f"{model.lower()}.py")
        path = Path(__file__).parents[2] / path  # no change to one that is absolute
        return path.read_text() if path.suffix == ".py" and path.is_file() else ""
    try:
        library = importlib.import_module({"torchvision": "torchvision.models"}.get(source, source))
        find = library.get_model_builder if source == "torchvision" else library.model_entrypoint
        beside = vars(sys.modules[find(name).__module__]).values()
    except (ImportError, ValueError, RuntimeError):
        return ""
    own = [one for one in beside if isinstance(one, type) and one.__module__ == find(name).__module__]
    return "\n".join(inspect.getsource(one) for one in own if issubclass(one, nn.Module))
