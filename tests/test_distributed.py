"""Two processes, started by torchrun, end where one does; and what happens when one of them is killed."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from stages import REPOSITORY, run

from models import TinyTen
from utils import distributed
from utils.attack import Attack
from utils.batches import as_images
from utils.measuring import reestimate_batch_norm
from utils.training import NetworkTask, fit

PROCESSES = 2


def torchrun(script, *flags, python=sys.executable):
    """The command line that starts a stage as two processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES)
    return [python, *launcher, REPOSITORY / script, *flags]


def run_together(script, *flags, **options):
    return processes.output(*torchrun(script, *flags, **options), env=os.environ | {"OMP_NUM_THREADS": "1"})


# A small learning rate, at which rounding errors do not grow. The parts of a batch of 33 differ in length, and of 100
# images the last batch has one, which only one process gets.
TRAINING = ["--batch_size", 33, "--lr", 0.0005]
CORR, PHASES = ["--epochs_model", 2, "--alignment", "corr"], ["--inner_iters_perm", 2, "--inner_iters_phi", 2]
EVALUATION = ["--batch_size", 33, *CORR, "--epochs_curve", 2, "--bn_images", 100]
STAGES = {
    "training/train_model.py": [*TRAINING, "--epochs", 2, "--seed", 1, 2],
    "alignment/align_models.py": ["--batch_size", 33, "--epochs", 2],
    "training/train_curve.py": [*TRAINING, *CORR, "--epochs", 2, "--val_freq", 1],
    "training/train_curve_pam.py": [*TRAINING, *CORR, *PHASES, "--val_freq", 2],
    "evaluation/eval_curve.py": [*EVALUATION, "--num_points", 5],
    "evaluation/eval_plane_with_curve.py": [*EVALUATION, "--num_points", 3],
    "alignment/align_along_curve.py": EVALUATION,
    # A single step: attacks make rounding errors grow, since they take the signs of derivatives that are almost 0.
    "training/train_model_adversarial.py": ["--batch_size", 160, "--lr", 0.001, "--epochs", 1, "--attack_steps", 2],
}


@pytest.fixture(scope="module")
def one(data_path, once):
    """What all the stages write as one process, and the flags that say where images are."""
    where = ["--dataset", "bars", "--data_path", data_path]

    def fill(root):
        for script, flags in STAGES.items():
            run(script, *where, "--root", root, *flags)

    return once("one", fill), where


def numbers(path):
    """Everything a file holds that is a number, by name."""
    if path.suffix == ".pt":
        checkpoint = torch.load(path, weights_only=True)
        points = {f"{i}.{name}": value for i, p in checkpoint.get("points", {}).items() for name, value in p.items()}
        state = checkpoint["model_state"] | checkpoint.get("soft", {}) | points
        return {name: value.double().numpy() for name, value in state.items()}
    loaded = np.load(path)
    return {"": loaded} if path.suffix == ".npy" else {n: a for n, a in loaded.items() if n != "record"}


def is_of_pam(path):
    return "_pam_" in path.name


# What each stage writes: of PAM, first its permutation phase, and then the curve phase that follows it. (Between the
# two, rounding chooses among permutations by differences as small as rounding errors: they are compared one by one.)
WRITES = {
    "training/train_model.py": lambda path: "seed_02" in path.name and "adversarial" not in str(path),
    "alignment/align_models.py": lambda path: path.name.startswith(("match_corr", "corr_")),
    "training/train_curve.py": lambda path: "curve_models" in str(path) and not is_of_pam(path),
    "training/train_curve_pam.py permutations": lambda path: "_perm1" in path.name,
    "training/train_curve_pam.py curve": lambda path: (
        is_of_pam(path) and "curve_models" in str(path) and "_perm1" not in path.name
    ),
    "evaluation/eval_curve.py": lambda path: path.is_relative_to("model_data/curves"),
    "evaluation/eval_plane_with_curve.py": lambda path: path.name.startswith("plane"),
    "alignment/align_along_curve.py": lambda path: "_t_" in path.name,
    "training/train_model_adversarial.py": lambda path: "adversarial" in str(path),
}


@pytest.mark.parametrize("case", WRITES)
def test_two_processes_equal_one(case, one, tmp_path, warm_python):
    root, where = one
    script = case.split()[0]
    written = [path.relative_to(root) for path in root.rglob("*") if path.suffix in (".pt", ".npy", ".npz")]
    made = list(filter(WRITES[case], written))
    assert made
    two = tmp_path / "two"
    shutil.copytree(root, two)
    for path in filter(is_of_pam, written) if case.endswith("permutations") else made:
        (two / path).unlink()
    printed = run_together(script, *where, "--root", two, *STAGES[script], python=warm_python)
    assert printed.count("Wrote:") == 1
    for path in made:
        expected, found = numbers(root / path), numbers(two / path)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=f"{path} {name}")
    assert not list(two.rglob(".*"))  # neither locks nor temporary files


@pytest.mark.long
def test_a_killed_process_ends_the_job_and_it_resumes(one, tmp_path, warm_python):
    _, where = one
    flags = [*where, "--root", tmp_path, *TRAINING, "--epochs", 400, "--seed", 3, "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with processes.started(*torchrun("training/train_model.py", *flags), env=environment) as process:
        processes.wait_until(lambda: list(tmp_path.rglob("*-resume.pt")), "a checkpoint", process)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        second = next(pid for pid in workers if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        os.kill(int(second), signal.SIGKILL)
        _, errors = processes.finish(process)
    assert process.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("train_model.py: error:")]
    assert len(ours) == 1, errors
    assert "another process of this job has ended" in ours[0]
    assert "--resume" in ours[0]
    flags[flags.index("--epochs") + 1] = 401  # a longer run goes on, and here begins where the killed one was
    saved = torch.load(next(tmp_path.rglob("*-resume.pt")), weights_only=True)["epoch"]
    flags[flags.index(401)] = saved + 1
    printed = run_together("training/train_model.py", *flags, python=warm_python)
    assert f"Resuming after epoch {saved}." in printed


def test_an_error_is_said_once(data_path, tmp_path, warm_python):
    where = ["--dataset", "bars", "--data_path", data_path, "--root", tmp_path]
    result = processes.run(*torchrun("training/train_curve.py", *where, python=warm_python))
    assert result.returncode != 0
    assert result.stderr.count("train_curve.py: error:") == 1
    assert "does not exist; make it with" in result.stderr


def test_a_single_process_enters_none_of_it():
    """Training and evaluation ask whether there are others, and then go their way without."""
    images = as_images((torch.rand(9, 3, 16, 16), torch.arange(9) % 4), "cpu")
    network, entered = TinyTen(4), set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename == distributed.__file__:
            entered.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        fit(NetworkTask(network, images, Attack(0.1, 0.1, 1)), images, rates=[0.1], batch_size=4, val_freq=1)
        reestimate_batch_norm(network, images, batch_size=4)
    finally:
        sys.setprofile(None)
    assert images.share is None
    assert entered <= {"launched", "rank", "is_main"}, entered


def test_batch_norm_is_over_the_whole_batch_and_sends_once(monkeypatch):
    """Far from zero, where a variance from sums of squares would cancel; one process has no part of the batch."""
    generator = torch.Generator().manual_seed(0)
    batch = 1_000 + torch.randn(7, 3, 4, 4, generator=generator)
    weight, bias = torch.rand(3, generator=generator), torch.rand(3, generator=generator)
    parts, sent = batch.split([4, 0, 3]), []

    def gather(places, tensor):
        sent.append(tensor)
        for place, other in zip(places, sent[:3], strict=False):
            place.copy_(other)

    monkeypatch.setattr(distributed, "size", lambda: len(parts))
    monkeypatch.setattr(distributed.dist, "all_gather", gather)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: pytest.fail("a second message"))
    for _ in range(2):  # in the first round, what the later ones send is not known yet
        outputs = [distributed._BatchNormOverAll.apply(part, weight, bias, 1e-5) for part in parts]
    assert len(sent) == 2 * len(parts)
    whole = torch.nn.functional.batch_norm(batch, None, None, weight, bias, training=True)
    torch.testing.assert_close(torch.cat([output for output, *_ in outputs]), whole, atol=2e-3, rtol=0)
    _, mean, variance, count = outputs[0]
    torch.testing.assert_close(mean, batch.mean((0, 2, 3)))
    torch.testing.assert_close(variance, batch.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)
    assert count == batch.numel() / 3


@pytest.mark.parametrize("kind", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("shape", [(6, 3, 4, 4), (6, 3)])
def test_batch_norm_of_every_kind(kind, shape, monkeypatch):
    """Of two processes, one of which has the whole batch and the other no part, the layer is as it is by itself."""
    made = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    alone, together = made(3, **kind), made(3, **kind)
    monkeypatch.setattr(distributed.dist, "all_gather", lambda places, own: (places[0].copy_(own), places[1].zero_()))
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: tensor)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, towards = torch.randn(2, *shape, generator=generator)
        gradients = []
        for layer, forward in ((alone, alone), (together, lambda x: distributed._forward_over_all(together, x))):
            monkeypatch.setattr(distributed, "size", lambda of=layer: 1 if of is alone else 2)
            own = x.clone().requires_grad_()
            (forward(own) * towards).sum().backward()
            gradients.append([own.grad, *(parameter.grad for parameter in layer.parameters())])
        for expected, found in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value)
