import copy
import inspect
import re
import sys
from urllib.parse import quote

import pytest
import torch

from models import MODELS, GoogLeNet, build
from utils.errors import UserError
from utils.permutations import permute
from utils.stages.foreign import load_foreign
from utils.stages.layout import Layout, full_name, is_network, model_folder, model_of
from utils.stages.records import definition
from utils.symmetries.spec import permutation_spec

PARAMETERS = {
    "TinyTen": (86_778, 92_628, 99_128),
    "ResNet32": (466_906, 472_756, 479_256),
    "GoogLeNet": (9_960_638, 10_237_388, 10_544_888),
}
STATE_ENTRIES = {"TinyTen": 58, "ResNet32": 200, "GoogLeNet": 364}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_state_entries(name):
    for classes, parameters in zip((10, 100, 200), PARAMETERS[name], strict=True):
        model = MODELS[name](classes)
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert len(model.state_dict()) == STATE_ENTRIES[name]


@pytest.mark.parametrize(
    "name, entries",
    [
        ("TinyTen", "layers.0.conv.weight layers.7.conv.bias layers.3.bn.running_var dense.weight"),
        ("ResNet32", "layers.0.0.weight layers.0.1.bias layers.1.4.conv2.weight layers.2.0.downsample.1.weight"),
        ("GoogLeNet", "conv3.bn.weight inception3a.branch2.1.conv.weight inception5b.branch4.bn.bias aux2.fc2.bias"),
        ("GoogLeNet", "aux1.conv.conv.weight"),
    ],
)
def test_published_names(name, entries):
    assert set(entries.split()) <= set(MODELS[name](10).state_dict())


def test_googlenet_accepts_torchvisions_name_of_the_pooled_branch():
    model = GoogLeNet(10)
    renamed = {name.replace("branch4.", "branch4.1."): value for name, value in model.state_dict().items()}
    assert not set(renamed) <= set(model.state_dict())
    GoogLeNet(10).load_state_dict(renamed, strict=True)


def test_googlenet_has_auxiliary_logits_in_training_only():
    model, x = GoogLeNet(7), torch.zeros(2, 3, 32, 32)
    assert [logits.shape for logits in model.train()(x)] == [(2, 7)] * 3
    assert model.eval()(x).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [32, 64])
def test_sizes_of_images(name, size):
    assert MODELS[name](5).eval()(torch.zeros(1, 3, size, size)).shape == (1, 5)


def test_networks_by_name(tmp_path):
    """torchvision's, and what a factory in a file makes; a folder of its own for each."""
    file = tmp_path / "mine.py"
    file.write_text("from torch import nn\n\n\ndef net(num_classes):\n    return nn.Linear(4, num_classes)\n")
    assert build("torchvision:resnet18", 7).fc.out_features == 7
    assert build(f"{file}:net", 5).out_features == 5
    assert build("TinyTen", 3).dense.out_features == 3
    names = ["TinyTen", "torchvision:resnet18", "timm:resnet18", f"{file}:net", f"{tmp_path / 'other+/mine.py'}:net"]
    names.append("models/tinyten.py:TinyTen")
    folders = [model_folder(name) for name in names]
    assert folders[1::4] == ["torchvision=resnet18", "models+tinyten.py=TinyTen"]
    assert all(re.fullmatch("mine.py=net=[0-9a-f]{8}", folder) for folder in folders[3:5])
    assert len(set(folders)) == len(names)
    assert not any(set(folder) & set("/:\\") for folder in folders)
    assert [model_of(folder) for folder in (*folders[:3], folders[5])] == [*names[:3], names[5]]
    assert [model_folder(model_of(folder)) for folder in folders] == folders
    assert all(map(is_network, names))
    assert not any(map(is_network, ("TinyTen_old", "", "notes.txt:a")))


def test_long_paths_have_short_folders(tmp_path):
    """A file of 58 characters, each of three bytes; results under names of before, with all of a path, are found."""
    names = [f"{tmp_path / folder / ('网络' * 29)}.py:net" for folder in ("a", "b")]
    layouts = [Layout(tmp_path, name, "bars") for name in (*names, f"{tmp_path}/my net.py:net")]
    folders = [layout.folder("models").parent for layout in layouts]
    assert len(set(folders)) == 3 and all(len(folder.name.encode()) < 100 for folder in folders)
    before = folders[2].with_name(quote(f"{tmp_path}/my net.py", safe="/").replace("/", "+") + "=net")
    before.mkdir(parents=True)
    assert (
        layouts[2].folder("models") == before / "bars" and layouts[2].folder("curves").parent.name == folders[2].name
    )
    folders[2].mkdir()
    assert layouts[2].folder("models").parent == folders[2]


@pytest.mark.parametrize("name", MODELS)
def test_the_definition_of_a_network_is_its_module(name):
    assert definition(name) == inspect.getsource(sys.modules[MODELS[name].__module__])
    assert "class ResNet" in definition("torchvision:resnet18")
    assert definition("Nothing") == definition("torchvision:nothing") == ""


LAYER = "from torch import nn\n\n\nclass Layer(nn.Linear):\n    mark = {!r}\n"
NETWORK = """{}


class Net({}Layer):
    def __init__(self, num_classes):
        from utils.more import SIZE

        super().__init__(SIZE, num_classes)

    def forward(self, x):
        import layers
        from models.blocks import Layer

        assert Layer.mark == layers.Layer.mark
        return super().forward(x), layers.Layer.mark
"""


@pytest.fixture
def project(tmp_path):
    """Makes a project with a package, folders called as ours, and modules beside them."""

    def write(name, start, base=""):
        root = tmp_path / name
        files = {
            "models/__init__.py": "",
            "models/blocks.py": LAYER.format(name),
            "models/net.py": NETWORK.format(start, base),
            "utils/more.py": "SIZE = 4",
            "layers.py": LAYER.format(name),
            "net.py": NETWORK.format(start, base),
        }
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root

    return write


@pytest.mark.parametrize(
    "file, start, base",
    [
        ("models/net.py", "from .blocks import Layer", ""),
        ("models/net.py", "from models.blocks import Layer", ""),
        ("models/net.py", "from blocks import Layer", ""),
        ("models/net.py", "from layers import Layer", ""),
        ("net.py", "import models.blocks", "models.blocks."),
        ("net.py", "from layers import Layer", ""),
    ],
)
def test_a_network_in_a_project_of_its_own(project, file, start, base):
    """Its own utils and models come before ours, each file has its own modules, and ours are what they were."""
    before, path, networks = dict(sys.modules), sys.path[:], []
    for name in ("one", "two", "one"):
        networks.append((name, build(f"{project(name, start, base) / file}:Net", 3)))
        for mark, network in networks:  # which import something when they run, too
            assert (network.mark, network.in_features, network.out_features) == (mark, 4, 3)
            output, found = copy.deepcopy(network)(torch.ones(2, 4))
            assert output.shape == (2, 3) and found == mark
    assert {name: one for name, one in sys.modules.items() if name.split(".")[0] in ("utils", "models")} == {
        name: one for name, one in before.items() if name.split(".")[0] in ("utils", "models")
    }
    assert sys.path == path


@pytest.mark.parametrize("name, package", [("models.net:Net", "models/net.py"), ("models:Net", "models/__init__.py")])
@pytest.mark.parametrize("below", ["", "src"])
def test_a_network_in_a_package(project, monkeypatch, name, package, below):
    """Found as Python finds it from the working directory; its results are those of the file."""
    root = project(f"one/{below}", "from .blocks import Layer")
    (root / "models/__init__.py").write_text("from .net import Net")
    monkeypatch.chdir(root.parent if below else root)
    assert build(name, 3).mark == f"one/{below}"
    assert full_name(name) == f"{root / package}:Net" and model_folder(name) == model_folder(full_name(name))
    with pytest.raises(UserError, match="there is no network 'models.nets:Net', nor a module here"):
        build("models.nets:Net", 3)
    (root / "models/blocks.py").rename(root / "models/more.py")  # a folder of a project need be no package
    (root / "models/__init__.py").unlink()
    (root / "models/net.py").write_text(
        "from models.more import Layer\n\n\ndef net(num_classes):\n    return Layer(2, 3)"
    )
    assert build("models.net:net", 3).mark == f"one/{below}"


def test_a_changed_file_is_read_anew(project):
    root = project("one", "from layers import Layer")
    assert build(f"{root / 'net.py'}:Net", 3).mark == "one"
    (root / "layers.py").write_text(LAYER.format("ten"))
    assert build(f"{root / 'net.py'}:Net", 3).mark == "ten"


@pytest.mark.parametrize(
    "line, words",
    [
        ("import argparse\nargs = argparse.ArgumentParser().parse_args()", "its top level calls parse_args (line 2)"),
        ("import torch\nfor i in range(3):\n    torch.ones(1).sum().backward()", "calls backward (line 3)"),
        ("import argparse\nread = argparse.ArgumentParser().parse_known_args\n\nread()", "calls parse_args (line 4)"),
        ("import sys\nassert len(sys.argv) == 2, 'no file'", "AssertionError: no file"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_a_file_that_is_a_script_is_refused_by_name(tmp_path, line, words):
    file = tmp_path / "script.py"
    file.write_text(f"{line}\nNet = None\n")
    with pytest.raises(UserError) as caught:
        build(f"{file}:Net", 3)
    assert str(caught.value).startswith(f"{file} cannot be imported: ") and words in str(caught.value)
    file.write_text(
        "from torch.nn import Linear\n\n\ndef net(num_classes):\n    return Linear(2, num_classes)\n\n\n"
        "if __name__ == '__main__':\n    net(3).weight.sum().backward()\n"
    )
    assert build(f"{file}:net", 3).out_features == 3


def test_a_network_that_asks_for_the_version_of_a_state():
    """torchvision's MNASNet refuses a state dict without it; states lose it in files and in arithmetic."""
    network = build("torchvision:mnasnet0_5", 3).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = network(images).detach()
    spec = permutation_spec(network, images, proof=False)
    load_foreign(network, dict(network.state_dict()))
    assert torch.equal(network(images), expected)
    network.load_state_dict(permute(network.state_dict(), spec, spec.random(1)))
    torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)
