"""Text as samples, and GPT, through the stages."""

import csv
import lzma

import numpy as np
import pytest
import torch
from stages import fails, run
from torch.nn import functional as F

from models.gpt import GPT
from utils.errors import FileError
from utils.permutations import absorbed, permute
from utils.stages.files import save_checkpoint
from utils.stages.layout import Layout, dataset_folder
from utils.stages.originals import load_checkpoint
from utils.stages.samples import load_text, read_text
from utils.symmetries.spec import permutation_spec

TEXT = "".join(f"{i}² is {i * i}.\n" for i in range(900)).encode()


@pytest.mark.parametrize("name", ["text", "text.xz", "text.npy"])
def test_blocks_are_the_tokens_of_the_file(tmp_path, name):
    tokens = np.frombuffer(TEXT, np.uint8).astype(np.int64)
    if name == "text.npy":
        tokens = tokens * 5 + 7
        np.save(tmp_path / name, tokens.astype(np.uint16))
    else:
        (tmp_path / name).write_bytes(lzma.compress(TEXT) if name == "text.xz" else TEXT)
    data = load_text(f"text:{tmp_path / name}", 10, task="language", use_test=True)
    train, test = (torch.cat([*part.batches(7)]) for part in (data.train, data.test))
    cut = int(0.95 * len(tokens))
    assert train.shape == (cut // 10, 10) and test.shape == ((len(tokens) - cut) // 10, 10)
    assert np.array_equal(train.flatten(), tokens[: train.numel()])
    assert np.array_equal(test.flatten(), tokens[cut : cut + test.numel()])
    assert data.num_classes == (tokens.max() + 1 if name == "text.npy" else 256)


REFUSED = {
    "none.txt": (None, "cannot be read as text"),
    "short.txt": (b"a" * 180, "holds 180 tokens, too few for blocks of 10"),
    "odd.xz": (TEXT, "cannot be read as text"),
    "real.npy": (np.zeros(999), "holds float64 numbers, and not ids"),
    "negative.npy": (np.full(999, -1), "holds int64 numbers, and not ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused(tmp_path, name):
    content, said = REFUSED[name]
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_text(tmp_path / name, 10)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("tied", [False, True])
def test_gpt_sees_no_later_token(norm, tied):
    torch.manual_seed(0)
    model = GPT(20, 6, width=8, depth=2, heads=2, tied=tied, norm=norm)
    tokens = torch.randint(0, 20, (2, 6))
    near, far = model(tokens), model((tokens + torch.tensor([0, 0, 0, 0, 1, 0])) % 20)
    assert near.shape == (2, 6, 20) and torch.equal(near[:, :4], far[:, :4])
    assert all((near - far)[:, place].abs().max() > 1e-4 for place in (4, 5))
    kinds = permutation_spec(model, tokens, rotations=True).kinds
    assert tied or kinds[0] == {"rms": "orthogonal", "layer": "orthogonal, ones kept"}[norm]


def test_stages_measure_cross_entropy_and_find_a_planted_rotation(tmp_path, capsys):
    (text := tmp_path / "a text.txt").write_bytes(TEXT)
    usual = ["--root", tmp_path, "--model", "GPT", "--dataset", f"text:{text}", "--task", "language", "--context", 16]
    run("training/train_model.py", *usual, "--optimizer", "adamw", "--epochs", 1, "--batch_size", 64)
    layout, a = Layout(tmp_path, "GPT", f"text:{text}"), GPT(256, 16)
    a.load_state_dict(load_checkpoint(layout.endpoint(1, 1))["model_state"])
    (train, test), _ = read_text(text, 16)
    spec = permutation_spec(a, test[:2], rotations=True)
    planted = permute(a.state_dict(), spec, spec.random(3))
    assert max((planted[name] - value).abs().max() for name, value in absorbed(a.state_dict(), spec).items()) > 0.01
    save_checkpoint(layout.endpoint(2, 1), {"model_state": planted})
    run("alignment/align_models.py", *usual, "--epochs", 1, "--method", "weight", "--rotations")
    line = ["--epochs_model", 1, "--epochs_curve", 0, "--num_points", 3, "--alignment", "weight_rotations"]
    run("evaluation/eval_curve.py", *usual, *line, "--ensemble", 3)
    logits = a(test).detach()
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), test[:, 1:].flatten()).item()
    losses = np.load(layout.evaluated("weight_rotations", 1, 2, 0))["loss"]
    assert losses == pytest.approx([expected] * 3, abs=1e-4)
    together = layout.ensemble("weight_rotations", 1, 2, 0, 3).with_suffix(".csv")
    table = np.genfromtxt(together, delimiter=",", names=True)
    assert table["loss"] == pytest.approx([expected] * 6, abs=1e-4)
    assert table["perplexity"] == pytest.approx(np.exp(table["loss"]))
    run("evaluation/compare_alignments.py", "--root", tmp_path)
    comparison = next((tmp_path / "figures").glob("comparison_*.csv"))
    assert "batch" not in comparison.with_suffix(".md").read_text()  # there is no batch norm
    with comparison.open() as file:
        shown = {row["quantity"]: float(row["mean"]) for row in csv.DictReader(file)}
    for quantity in ("loss best point", "loss ends", "loss ensemble"):
        assert shown[quantity] == pytest.approx(expected, abs=1e-3)
    assert dataset_folder(f"text:{text}").startswith("a_text.txt=")
    assert "for --dataset text:FILE alone" in fails(capsys, "training/train_model.py", "--context", "8")[1]
    assert "GPT is for text" in fails(capsys, "training/train_model.py", "--root", tmp_path, "--model", "GPT")[1]
