"""Pickle bombs: files that would make a folder if they were unpickled, in every way a format has a place for one."""

import collections
import io
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.torture.damages import files_for, judge, set_up, undamaged
from benchmarks.torture.judging import Failure, inodes
from benchmarks.torture.readers import READERS, Reader
from benchmarks.torture.running import run
from benchmarks.torture.trials import Torture


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def bombs_for(path: Path, mark: Path) -> Iterator[tuple[str, bytes]]:
    """The file with a bomb in it, and in words where."""
    bomb = Bomb(mark)
    yield "a plain pickle", pickle.dumps(bomb)
    if path.suffix == ".pt":
        whole = torch.load(path, weights_only=True)
        states = {
            "beside model_state": whole | {"bomb": bomb},
            "in model_state": whole | {"model_state": whole["model_state"] | {"bomb": bomb}},
        }
        for words, state in states.items():
            legacy = partial(torch.save, state, _use_new_zipfile_serialization=False)
            yield words, _written(partial(torch.save, state))
            yield f"{words}, legacy format", _written(legacy)
    objects = np.array([bomb, bomb], dtype=object)
    if path.suffix == ".npy":
        yield "array of objects", _written(lambda stream: np.save(stream, objects, allow_pickle=True))
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = dict(stored)
        for name in (*list(arrays)[:3], "more"):
            changed = arrays | {name: objects}
            yield f"array {name}", _written(lambda stream, changed=changed: np.savez(stream, **changed))


def _written(write: Callable) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def bombs(t: Torture) -> None:
    mark = t.folder / "bomb"
    done = collections.Counter()
    for reader in READERS:
        done[reader.pattern] += 1
        if reader.is_unsealed or done[reader.pattern] > 2:
            continue
        undamaged(t, reader)
        folder, _ = set_up(t, reader)
        original = files_for(reader, folder)[0]
        for words, content in list(bombs_for(original, mark)):
            section = f"pickle bomb: {original.suffix}"
            t.attempt(section, f"{original.relative_to(folder)}: {words}", partial(_read, t, reader, content, mark))


def _read(t: Torture, reader: Reader, content: bytes, mark: Path) -> str:
    folder, flags = set_up(t, reader)
    path = files_for(reader, folder)[0]
    path.unlink()
    path.write_bytes(content)
    before = inodes(t.trial)
    outcome = run(reader.script, flags)
    if mark.exists():
        mark.rmdir()
        raise Failure("the bomb went off", outcome)
    return judge(t, reader, path, outcome, before)
