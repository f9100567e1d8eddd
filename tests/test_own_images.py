"""What stages say of images that are somebody's own: their name, their size, their number."""

import shutil

import numpy as np
import pytest
from conftest import SIZE, write_image_folder
from PIL import Image
from stages import STAGES, fails, run

from utils.stages.data import load_data
from utils.stages.files import load_arrays, save_arrays
from utils.stages.layout import Layout
from utils.stages.records import load_record, record_in


@pytest.mark.parametrize("script", STAGES)
def test_a_path_is_not_the_name_of_a_dataset(capsys, tmp_path, script):
    write_image_folder(tmp_path / "my flowers", 3, 2)
    code, line = fails(capsys, script, "--dataset", tmp_path / "my flowers")
    assert code == 2
    folder = (
        ""
        if script.startswith(("visualization", "evaluation/make", "evaluation/compare"))
        else f"--data_path {tmp_path} "
    )
    assert line.endswith(f"it is a path; use: {folder}--dataset 'my flowers'")
    assert {path.name for path in (tmp_path / "my flowers").iterdir()} == {"train", "test"}


@pytest.mark.parametrize(
    "name, advice",
    [
        ("", ""),
        (".hidden", ""),
        ("../x", "; use: --data_path .. --dataset x"),
        ("flowers/", "; use: --data_path . --dataset flowers"),
        ("/data/flowers/train", "; use: --data_path /data --dataset flowers"),
        ("/data/flowers/valid/", "; use: --data_path /data --dataset flowers"),
        ("/", ""),
    ],
)
def test_other_names_that_are_none(capsys, tmp_path, name, advice):
    code, line = fails(capsys, "training/train_model.py", f"--dataset={name}", "--root", tmp_path)
    assert code == 2
    assert line.split("is not the name of a dataset: ")[1].partition("; ")[2] == advice.removeprefix("; ")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mixed(tmp_path):
    """Flags for a dataset of images of two sizes."""
    write_image_folder(tmp_path / "data" / "mixed", 6, 2)
    for number, path in enumerate(sorted((tmp_path / "data").rglob("*.png"))):
        if number % 3 == 0:
            Image.open(path).resize((24, 20)).save(path)
    return ["--dataset", "mixed", "--root", tmp_path, "--batch_size", "16"]


def test_images_of_several_sizes_have_a_way_out(capsys, mixed, tmp_path):
    for script in ("data/prepare.py", "training/train_model.py"):
        flags = mixed if script.startswith("training") else mixed[:4]
        code, line = fails(capsys, script, *flags)
        assert code == 1
        assert line.endswith("; give images one size with: --image_size N")
    more = ["--image_size", 12, "--epochs", 1]
    run("training/train_model.py", *mixed, *more, "--seed", 1)
    next_command = capsys.readouterr().out.splitlines()[-1]
    assert "--image_size 12 " in next_command and f"--root {tmp_path}" in next_command
    run("training/train_model.py", *mixed, *more, "--seed", 2)
    assert "--image_size 12" in capsys.readouterr().out.splitlines()[-1]
    path = tmp_path / "model_dicts/basic_models/TinyTen/mixed/checkpoint_seed_01-1.pt"
    record = load_record(path)
    assert record.flags["image_size"] == 12
    assert "--image_size 12" in " ".join(record.command)
    code, line = fails(capsys, "training/train_model.py", *mixed, "--image_size", 16, "--epochs", 1)
    assert "image_size 12 (now 16)" in line


def test_results_know_the_image_size(capsys, small, workspace):
    """Results that do not say it are older ones, of images as they are."""
    curve = ["evaluation/eval_curve.py", *small, "--epochs_model", 3, "--epochs_curve", 2, "--num_points", 5]
    path = Layout(workspace, "TinyTen", "bars").evaluated("", 1, 2, 2)
    before = load_arrays(path)
    record = record_in(before)
    assert record.flags["image_size"] is None
    save_arrays(path, **before | {"record": record.without("image_size").stored()})
    run(*curve)
    assert "This is done already" in capsys.readouterr().out
    code, line = fails(capsys, *curve, "--image_size", 12)
    assert code == 1
    assert "image_size none (now 12)" in line
    run(*curve, "--image_size", 12, "--overwrite")
    assert not np.array_equal(load_arrays(path)["loss"], before["loss"])
    code, line = fails(capsys, *curve)
    assert "image_size 12 (now none)" in line
    run(*curve, "--image_size", SIZE, "--overwrite")  # their own
    np.testing.assert_array_equal(load_arrays(path)["loss"], before["loss"])


def test_images_smaller_than_a_network_takes(capsys, tmp_path):
    write_image_folder(tmp_path / "data" / "tiny", 6, 2, size=8)
    flags = ["--dataset", "tiny", "--root", tmp_path, "--epochs", 1]
    code, line = fails(capsys, "training/train_model.py", *flags)
    assert code == 1
    assert "TinyTen cannot take images of 8×8: " in line
    run("training/train_model.py", *flags, "--image_size", 9)
    before = {path: path.read_bytes() for path in tmp_path.rglob("[!.]*seed_01*")}
    assert len(before) > 1
    code, line = fails(capsys, "training/train_model.py", *flags, "--overwrite")
    assert "TinyTen cannot take images of 8×8: " in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("[!.]*seed_01*")} == before


def test_few_images_and_large_batches(capsys, tmp_path):
    write_image_folder(tmp_path / "data" / "few", 2, 1, size=9)
    flags = ["--dataset", "few", "--root", tmp_path]
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 1, "--batch_size", 7)
    assert code == 1
    alone = "TinyTen needs at least two images in a batch, and the last one has one; use another --batch_size, or"
    assert alone in line
    assert not list(tmp_path.rglob("*.pt"))
    for seed in (1, 2):
        run("training/train_model.py", *flags, "--epochs", 1, "--seed", seed)
    run("alignment/align_models.py", *flags, "--epochs", 1)
    pair = [*flags, "--epochs_model", 1, "--alignment", "corr"]
    run("training/train_curve.py", *pair, "--epochs", 1)
    run("evaluation/eval_curve.py", *pair, "--epochs_curve", 1, "--num_points", 3)
    before = {path: path.read_bytes() for path in (tmp_path / "model_data").rglob("[!.]*.*")}
    for script in (
        "evaluation/eval_curve.py",
        "evaluation/eval_plane_with_curve.py",
        "alignment/align_along_curve.py",
    ):
        code, line = fails(capsys, script, *pair, "--epochs_curve", 1, "--batch_size", 7, "--overwrite")
        assert alone in line
    assert {path: path.read_bytes() for path in (tmp_path / "model_data").rglob("[!.]*.*")} == before
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 1, "--no-use_test")
    assert code == 1
    assert "a tenth, to be held out for testing, is none" in line
    capsys.readouterr()
    run("evaluation/eval_curve.py", *pair, "--epochs_curve", 1, "--num_points", 3, "--overwrite")
    assert "other images" not in capsys.readouterr().out
    for split in ("train", "test"):  # so that all classes have other numbers
        (tmp_path / "data/few" / split / "class0").rename(tmp_path / "data/few" / split / "zebra")
    for stage in (
        ["alignment/align_models.py", *flags, "--epochs", 1, "--overwrite"],
        ["evaluation/eval_curve.py", *pair, "--epochs_curve", 1, "--num_points", 3, "--overwrite"],
    ):
        run(*stage)
        said = [line for line in capsys.readouterr().out.splitlines() if "was trained on other images" in line]
        assert len(said) == 2
        assert all("few has here, or with classes in another order" in line for line in said)


def test_grey_networks_of_grey_images(capsys, tmp_path):
    """Every stage takes them; a network for other channels than the images have is refused in a line."""
    write_image_folder(tmp_path / "data" / "bars", 6, 2)
    model = tmp_path / "grey.py"
    layers = "nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)"
    model.write_text(f"from torch import nn\n\ndef Grey(num_classes):\n    return nn.Sequential({layers})\n")
    own = ["--model", f"{model}:Grey", "--dataset", "bars", "--root", tmp_path, "--batch_size", 16]
    for flags in (own, ["--dataset", "bars", "--root", tmp_path, "--batch_size", 16]):
        grey = [*flags, "--channels", 1]
        for seed in (1, 2):
            run("training/train_model.py", *grey, "--epochs", 1, "--seed", seed)
        assert "--channels 1 " in capsys.readouterr().out.splitlines()[-1]
        run("alignment/align_models.py", *grey, "--epochs", 1)
        run("evaluation/eval_curve.py", *grey, "--epochs_model", 1, "--epochs_curve", 0, "--num_points", 3)
        code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 2, "--resume")
        assert "channels 1 (now 3)" in line or "16×16 with 3 channels (--channels 1 or 3)" in line
    for more, says in (
        (["--model", "torchvision:resnet18", "--channels", 1], "is for images with 3 channels, and these have 1"),
        (["--channels", 2], "'2' is not 1 or 3"),
        (["--channels", 1, "--mean", 0.5, 0.5, 0.5, "--std", 1, 1, 1], "of which images have 1"),
    ):
        assert says in fails(capsys, "training/train_model.py", *own[2:], *more)[1]


def test_test_images_to_train_on_are_counted(tmp_path, capsys):
    write_image_folder(tmp_path / "bars", 3, 2)
    for number in (0, 2):
        shutil.copy(tmp_path / f"bars/train/class{number}/001.png", tmp_path / f"bars/test/class{number}/more.png")
    load_data("bars", folder=tmp_path, transform="TinyTen")
    assert capsys.readouterr().out == "2 of the 10 test images of bars are training images, too\n"
