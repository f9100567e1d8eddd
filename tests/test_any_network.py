"""Networks of the user's own through the stages: made in a file, with attention and layer norm; a library's."""

import shlex

import numpy as np
import pytest
import torch
from stages import fails, run

from models import builder
from utils.losses import classification, main_output
from utils.permutations import permute
from utils.stages.layout import Layout, model_folder, model_of
from utils.stages.loading import load_endpoint
from utils.stages.matches import load_match, permutations_from_rows
from utils.symmetries.spec import permutation_spec

VIT = """
import torch
from torch import nn


class ViT(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return {"logits": self.head((x + self.mlp(x)).mean(1))}
"""
PAIR = ["--seed_a", 1, "--seed_b", 2]


@pytest.fixture(scope="module")
def own(tmp_path_factory, data_path):
    """The name of a network in a file, and a root with two of them trained, matched, and a curve between them."""
    root = tmp_path_factory.mktemp("own")
    (root / "my nets.py").write_text(VIT)
    model = f"{root / 'my nets.py'}:ViT"
    flags = ["--model", model, "--dataset", "bars", "--data_path", data_path, "--root", root, "--batch_size", 32]
    flags += ["--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25]
    for seed in (1, 2):
        run("training/train_model.py", *flags, "--epochs", 2, "--lr", 0.05, "--seed", seed)
    run("alignment/align_models.py", *flags, *PAIR, "--epochs", 2)
    curve = ["--alignment", "corr", "--epochs_model", 2]
    run("training/train_curve.py", *flags, *PAIR, *curve, "--epochs", 1, "--lr", 0.05)
    for epochs in (0, 1):
        run("evaluation/eval_curve.py", *flags, *PAIR, *curve, "--epochs_curve", epochs, "--num_points", 3)
    return model, root, flags


def test_its_files_are_in_a_folder_of_its_own(own):
    model, root, _ = own
    folder = Layout(root, model, "bars").folder("models")
    assert folder.parent.name.startswith("my_nets.py=ViT=")
    assert (folder / "checkpoint_seed_01-2.pt").is_file()


def test_the_match_keeps_what_it_computes(own, load_bars):
    model, root, _ = own
    data = load_bars(transform="standard", moments=[[0.5] * 3, [0.25] * 3])
    layout = Layout(root, model, "bars")
    a, b = (load_endpoint(builder(model), layout, data, seed, 2) for seed in (1, 2))
    x = data.example[0]
    spec = permutation_spec(b, x)
    rows = load_match(layout.match("corr", 1, 2)).rows
    permutations = permutations_from_rows(spec, rows)
    assert any((p != i).any() for p, i in zip(permutations, spec.identity(), strict=True))
    before = main_output(b(x))
    b.load_state_dict(permute(b.state_dict(), spec, permutations))
    torch.testing.assert_close(main_output(b(x)), before)
    line = np.load(layout.evaluated("corr", 1, 2, 0))
    curve = np.load(layout.evaluated("corr", 1, 2, 1))
    np.testing.assert_allclose(line["loss"][[0, -1]], curve["loss"][[0, -1]])  # the same two networks


def test_all_that_is_made_of_a_pair(own, capsys, quick_pam):
    model, root, flags = own
    phases = ["--inner_iters_perm", 1, "--inner_iters_phi", 1]
    run("training/train_curve_pam.py", *flags, *PAIR, "--epochs_model", 2, *phases)
    path = [*flags, *PAIR, "--alignment", "corr", "--epochs_model", 2]
    small = ["--num_points", 2, "--bn_images", 32]
    run("evaluation/eval_plane_with_curve.py", *path, *small, "--epochs_curve", 1)
    run("evaluation/eval_plane_with_alignment.py", *path, *small)
    run("alignment/align_along_curve.py", *path, "--epochs_curve", 1)
    run("evaluation/eval_curve.py", *path, "--epochs_curve", 0, "--num_points", 3, "--ensemble", 2)
    run("alignment/align_many.py", *flags, "--seeds", 1, 2, "--epochs", 2, "--bn_images", 32)
    run("evaluation/export_point.py", *path, "--epochs_curve", 0, "--out", root / "merged.pt")
    shown = ["--model", model, "--dataset", "bars", "--root", root, *PAIR]
    run("visualization/viz_curve.py", *shown, "--epochs", 0, 1, "--alignment", "corr")
    run("visualization/layerwise_mean_correlation/viz_align_models.py", *shown)
    assert len(list((root / "figures").glob("curve_bars_*.png"))) == 1
    capsys.readouterr()
    run("evaluation/make_tables.py", "--root", root)
    table = capsys.readouterr().out
    assert f"**{model_of(model_folder(model))}**, the two networks" in table
    assert "| line, aligned |" in table


def test_advice_names_it_as_it_was_named(own, capsys, monkeypatch):
    model, root, flags = own
    monkeypatch.chdir(root)
    flags = ["--model", "my nets.py:ViT", *flags[2:]]
    code, line = fails(capsys, "alignment/align_models.py", *flags, "--seed_a", 1, "--seed_b", 5, "--epochs", 2)
    assert code == 1
    command = shlex.split(line.split("make it with: ")[1])
    assert command[command.index("--model") + 1] == "my nets.py:ViT"
    at = command.index("--mean")
    assert command[at : at + 8] == ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Tinyten", "there is no network 'Tinyten'; TinyTen may be meant"),
        ("torchvision:resnet81", "torchvision has no network 'resnet81' for classification; resnet18"),
        ("net.py:Net", "there is no file net.py"),
    ],
)
def test_networks_that_there_are_not(capsys, model, words):
    code, line = fails(capsys, "training/train_model.py", "--model", model)
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            "nn.Conv2d(3, num_classes, 1)",
            "the network puts out (4, 16, 16) for an image, where a logit for each of 4 classes is wanted",
        ),
        ("nn.Flatten(), nn.Linear(3, num_classes)", "Sequential cannot take images of 16×16: mat1 and mat2 shapes"),
    ],
)
def test_networks_that_do_not_classify(tmp_path, flags, capsys, layers, words):
    file = tmp_path / "net.py"
    file.write_text(f"from torch import nn\n\n\ndef net(num_classes):\n    return nn.Sequential({layers})\n")
    code, line = fails(capsys, "training/train_model.py", *flags, "--model", f"{file}:net")
    assert code == 1
    assert words in line


def test_what_networks_put_out():
    """Logits and those of auxiliary heads, in whatever form."""
    logits, more = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.randint(3, (5,))
    alone, both = (classification(output, labels).objective(5) for output in (logits, (logits, more)))
    assert both > alone

    class Dataclass:
        def __init__(self):
            self.loss, self.logits = None, logits

    for output in ({"logits": logits, "features": more}, {"out": logits}, (logits, None), [logits], Dataclass()):
        assert main_output(output) is logits
        assert classification(output, labels).objective(5) == alone
    for output in (None, {}, (None,)):
        with pytest.raises(TypeError, match="puts out no logits"):
            main_output(output)
