"""Networks of other code, brought into the layout: bit for bit what they were, or refused in one line."""

import numpy as np
import pytest
import torch
from conftest import randomize, same
from stages import fails, run
from test_foreign_checkpoints import AVERAGE, STATE, prefixed
from torch import nn

from models import TinyTen
from utils.stages.files import save_array
from utils.stages.layout import Layout

SCRIPT = "training/import_checkpoint.py"
LENGTH = len(STATE)


def half(state=STATE, dtype=torch.float16):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


@pytest.fixture
def importing(flags, tmp_path):
    """Writes a content to a file, and gives the flags to import it and the path where it then is."""

    def prepare(content, *more):
        torch.save(content, tmp_path / "theirs.pth")
        path = Layout(tmp_path, "TinyTen", "bars").endpoint(7, 90)
        return [*flags, "--seed", 7, "--epochs", 90, *more, tmp_path / "theirs.pth"], path

    return prepare


@pytest.mark.parametrize(
    "content, more, says",
    [
        (STATE, [], ""),
        ({"model_state": STATE, "epoch": 3}, [], ""),
        ({"state_dict": STATE, "best": 61.3}, [], "its network is the entry state_dict"),
        ({"model": prefixed("module.")}, [], f"{LENGTH} entries renamed, e.g. module.layers.0.conv.weight to layers"),
        ({"net": prefixed("_orig_mod.")}, [], f"{LENGTH} entries renamed"),
        ({"model_state_dict": prefixed("module._orig_mod.")}, [], f"{LENGTH} entries renamed"),
        ({"model": AVERAGE, "model_ema": STATE}, ["--key", "model_ema"], ""),
        ({"model": AVERAGE, "ema": {"module": STATE, "updates": 7}}, ["--key", "ema"], ""),
        ({"model": AVERAGE, "ema": {"module": STATE, "updates": 7}}, ["--key", "ema.module"], ""),
        ({"state_dict": prefixed("model.", AVERAGE) | prefixed("ema.")}, ["--key", "ema"], ""),
        ({"state_dict": prefixed("model.", AVERAGE) | prefixed("ema.")}, ["--key", "state_dict.ema"], ""),
        (prefixed("module.student.") | prefixed("module.teacher.", AVERAGE), ["--key", "module.student"], ""),
        ({"model": STATE, "model_ema": AVERAGE}, [], "the network in its entry model_ema is left in the file"),
    ],
)
def test_a_network_arrives_as_it_was(content, more, says, importing, capsys):
    words, path = importing(content, *more)
    run(SCRIPT, *words)
    out = capsys.readouterr().out
    stored = torch.load(path, weights_only=True)
    assert same(stored["model_state"], dict(STATE))
    assert says in out and "On the test set: loss " in out
    assert ("is left in the file" in out) == (content.get("model_ema") is AVERAGE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_said_to_be(dtype, importing, capsys):
    words, path = importing(half(dtype=dtype))
    run(SCRIPT, *words)
    assert f"of {str(dtype).removeprefix('torch.')} converted to float32" in capsys.readouterr().out
    expected = {name: value.to(STATE[name].dtype) for name, value in half(dtype=dtype).items()}
    assert same(torch.load(path, weights_only=True)["model_state"], expected)


def test_what_its_numbers_say(importing, capsys):
    """Loss and accuracy are those of the test set; near chance, the normalization is asked after."""
    state = dict(STATE)
    state["dense.weight"], state["dense.bias"] = torch.zeros(4, 64), torch.tensor([0.0, 0, 0, 9])
    words, _ = importing(state)
    run(SCRIPT, *words)
    out = capsys.readouterr().out
    loss = nn.functional.cross_entropy(state["dense.bias"].expand(4, -1), torch.arange(4)).item()
    assert f"loss {loss:.4f}, accuracy 25.00 %" in out
    assert "That is close to chance" in out


@pytest.mark.parametrize(
    "content, more, says",
    [
        (prefixed("other.", {"dense.bias": STATE["dense.bias"]}), [], "does not fit TinyTen: it lacks layers.0.conv"),
        (STATE | {"dense.bias": torch.full((4,), torch.nan)}, [], "holds weights that are not finite numbers"),
        ({"model": STATE}, ["--key", "ema"], "has no entry ema; it holds model"),
        ({"model": STATE, "ema": 3}, ["--key", "ema"], "is not a checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(content, more, says, importing, capsys):
    words, path = importing(content, *more)
    code, line = fails(capsys, SCRIPT, *words)
    assert code == 1 and says in line
    assert not path.exists()


def test_nothing_is_replaced_unasked(importing, tmp_path, capsys):
    words, path = importing(STATE)
    history = Layout(tmp_path, "TinyTen", "bars").model_history(7)["loss_train"]
    save_array(history, np.ones(90))
    run(SCRIPT, *words)
    before = path.read_bytes()
    words, _ = importing(AVERAGE)
    code, line = fails(capsys, SCRIPT, *words)
    assert code == 1 and f"{path} is there already" in line and "--overwrite" in line
    assert path.read_bytes() == before and history.exists()
    run(SCRIPT, *words, "--overwrite")
    assert same(torch.load(path, weights_only=True)["model_state"], AVERAGE)
    assert not history.exists()  # of the network that was there


def test_stages_go_on_from_it(importing, flags, capsys):
    """Alignment takes it where the normalization is the same, and training takes it for a finished run."""
    for seed in (7, 8):
        words, path = importing(randomize(TinyTen(4), seed).state_dict(), "--seed", seed)
        run(SCRIPT, *words)
    assert "alignment/align_models.py" in capsys.readouterr().out
    pair = [*flags, "--seed_a", 7, "--seed_b", 8, "--epochs", 90]
    run("alignment/align_models.py", *pair)
    code, line = fails(capsys, "alignment/align_models.py", *pair, "--transform", "none", "--align_name", "other")
    assert "normalizes images unlike" in line
    before = path.read_bytes()
    run("training/train_model.py", *flags, "--seed", 7, "--epochs", 90)
    assert "This run is finished" in capsys.readouterr().out
    assert path.read_bytes() == before
    code, line = fails(capsys, "training/train_model.py", *flags, "--seed", 7, "--epochs", 91, "--resume")
    assert code == 1 and "does not hold what a resumed run needs" in line
