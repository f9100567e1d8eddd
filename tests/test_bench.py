"""benchmarks/gpu.py without a GPU: what it makes of a profile and of times, and its steps on an emulated device.

And benchmarks/bench.py: what it makes of what processes say.
"""

import json
import subprocess
import time

import emulated
import pytest
import torch

from benchmarks import bench, bounds, gpu
from utils import curves, devices, pam
from utils.stages.data import REPOSITORY_DATA, load_data

CPU = torch.device("cpu")


def event(cat, name, start=0.0, duration=1.0):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration}


@pytest.mark.parametrize("script", (bench, gpu))
def test_results_go_under_home(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert script.parse_args(["--out=~/x"]).out == tmp_path / "x"


def test_what_is_counted_of_a_profile():
    """Kernels that overlap are busy once; a graph is one start; only calls that block are waits."""
    events = [
        event("kernel", "sgemm", 0.0, 30.0),
        event("kernel", "elementwise", 10.0, 10.0),
        event("kernel", "elementwise", 25.0, 15.0),
        event("gpu_memset", "Memset (Device)", 50.0, 2.0),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 60.0, 3.0),
        event("gpu_user_annotation", "Optimizer.step#SGD.step", 0.0, 100.0),
        event("cuda_sync", "Stream Synchronize", 0.0, 100.0),
        event("cuda_runtime", "cudaLaunchKernel"),
        event("cuda_runtime", "cudaLaunchKernelExC"),
        event("cuda_driver", "cuLaunchKernel"),
        event("cuda_runtime", "cudaGraphLaunch"),
        event("cuda_runtime", "cudaMemsetAsync"),
        event("cuda_runtime", "cudaMemcpyAsync"),
        event("cuda_runtime", "cudaStreamSynchronize"),
        event("cuda_runtime", "cudaDeviceSynchronize"),
        event("cuda_runtime", "cudaMemcpy"),
        event("cuda_runtime", "cudaStreamWaitEvent"),
        event("cuda_runtime", "cudaEventQuery"),
        event("cpu_op", "aten::_local_scalar_dense"),
        {"ph": "M", "name": "process_name"},
    ]
    assert gpu.counted(events) == gpu.Counts(kernels=5, starts=7, waits=3, busy=pytest.approx(45e-6))


def test_traces_are_those_of_the_profiler():
    """They have the names that are counted by, and none of a GPU where there is none."""
    events = gpu.traced(lambda: torch.ones(3) + 1, CPU)
    (added,) = (each for each in events if each["name"] == "aten::add")
    assert added["cat"] == "cpu_op"
    assert added["dur"] > 0
    assert gpu.counted(events) == (0, 0, 0, 0.0)


def test_shares_of_a_profile():
    """Of every operator there is one kind, and time inside another operator counts once."""
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())

    def work():
        with torch.autocast("cpu", torch.bfloat16):
            block(torch.ones(4, 3, 16, 16)).sum().backward()

    found = bounds.shares(work)
    assert sum(found.values()) == pytest.approx(100)
    assert all(share > 0 for share in found.values())


def test_time_over_a_product_and_over_the_sum_of_kernels():
    """Of kernels alone nothing counts that is between them."""
    layer = torch.nn.Linear(256, 256)

    def work():
        layer(torch.ones(256, 256)).sum().backward()
        time.sleep(0.5)

    assert 0 < bounds.kernels(work) < 0.5
    assert layer.weight.grad is not None
    seconds, of_product = {name: [2.0] for name in ("fp32", "bf16")}, bounds.speed(1.0)
    alone = {"training_kernels": {"fp32": 1.6, "bf16": 1.0}}
    products = {"fp32": [1.0], "bf16": [0.5]}
    table = bench.bound_table({"train_epoch": int(of_product)}, {"train_epoch": seconds}, products, alone)
    assert bounds.machine()["processor"] in table
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    assert cells[3:-1] == ["2.00×", "1.25×", "4.00×", "2.00×"]


@pytest.fixture
def embedded():
    return load_data("FashionMNIST10k", folder=REPOSITORY_DATA, transform="TinyTen").train


def test_epochs_are_of_whole_augmentations(embedded, monkeypatch):
    monkeypatch.setattr(gpu, "images_at_once", lambda *_: 4_096)
    for batch_size, first, steps in ((128, 32, 64), (1_024, 4, 40), (5_000, 1, 40)):
        of = gpu.epochs(embedded, batch_size, 40)
        assert (of.first, of.steps) == (first, steps)
        assert [len(images) for images in of[:3]] == [batch_size * n for n in (first, 2 * first, first + steps)]


def test_a_step_is_what_a_longer_epoch_takes_more(embedded, monkeypatch):
    """An epoch waits twice and runs a kernel whatever its length, and takes a second."""
    batch_size, seen = 10, []

    def events(work, device):
        work()
        batches = len(seen[-1]) // batch_size
        kernels = [event("kernel", "", 10 * n, 4.0) for n in range(7 * batches + 1)]
        return (
            kernels
            + [event("cuda_runtime", "cudaLaunchKernel")] * 6 * batches
            + [event("cuda_runtime", "cudaStreamSynchronize")] * (2 + 3 * batches)
        )

    def times(work, device):
        work()
        return 1 + 0.25 * len(seen[-1]) / batch_size

    monkeypatch.setattr(gpu, "traced", events)
    monkeypatch.setattr(gpu, "seconds", times)
    row = gpu.measured(seen.append, gpu.epochs(embedded, batch_size, 8), 3, CPU)
    expected = {"seconds": 0.25, "kernels": 7, "starts": 6, "waits": 3, "busy": 28e-6}
    assert row == {name: pytest.approx(value) for name, value in expected.items()} | {"memory": None}


# --- all of it ---------------------------------------------------------------------------------------------

STEPS = ("training", "curve", "PAM, permutation phase", "batch-norm statistics", "test")
SMALL = ["--networks", "TinyTen", "--batch_sizes", "8", "--steps", "1", "--rounds", "1"]


@pytest.fixture
def rows(monkeypatch):
    """The rows that are measured: of one epoch in fp32, on a device that augments few images at once."""
    found = []
    made = gpu.network_rows

    def measured(step, of, *_):
        step(of.few)
        return dict.fromkeys(gpu.Counts._fields) | {"seconds": 1.0, "memory": None}

    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu, "network_rows", lambda *a, **b: (found.append(row) or row for row in made(*a, **b)))
    monkeypatch.setattr(gpu, "write", lambda *_: pytest.fail("a trial writes nothing"))
    monkeypatch.setattr(gpu, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(devices, "PIXELS_AT_ONCE", 8 * 32 * 32)
    return found


@pytest.mark.skipif(emulated.MISSING is not None, reason=str(emulated.MISSING))
def test_all_steps_on_an_emulated_device(rows, monkeypatch, capsys):
    """In fp32: the emulation knows no autocast."""
    with emulated.rules(emulated.CUDA) as emulation:
        gpu.main(gpu.parse_args([*SMALL, "--device", emulated.NAME]))
    assert emulation.operations > 2_000
    assert [(row["step"], row["images"]) for row in rows] == [*((step, 8) for step in STEPS), ("alignment", 512)]
    assert not [row["failed"] for row in rows if "failed" in row]
    assert "profiler tells nothing of emulated" in capsys.readouterr().out


def test_compiled_steps_too(rows, monkeypatch):
    for module in (gpu, curves, pam):
        monkeypatch.setattr(module, "compile_options", lambda device: {"dynamic": False, "backend": "eager"})
    gpu.main(gpu.parse_args([*SMALL, "--device", "cpu", "--compile"]))
    assert [row["compiled"] for row in rows] == [False] * 5 + [True] * 5 + [False]
    assert not [row["failed"] for row in rows if "failed" in row]
    assert all(first["flop"] == second["flop"] for first, second in zip(rows[:5], rows[5:10], strict=True))


def test_a_step_that_fails_leaves_the_others(embedded, capsys):
    def fail(images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    known = {"network": "TinyTen", "images": 8, "precision": "fp32", "compiled": False}
    steps, of = (
        {"training": fail, "test": lambda images: torch.ones(2, 3) @ torch.ones(3, 4)},
        gpu.epochs(embedded, 8, 1),
    )
    flop = gpu.flop_of(steps, of)
    assert flop == {"training": None, "test": 2 * 2 * 3 * 4}
    first, second = gpu.rows_of(steps, known, of, flop, 1)
    assert "| failed: CUDA out of memory. Tried to allocate 2.00 GiB. |" in capsys.readouterr().out
    assert "failed" in first
    assert second["seconds"] < 1


# --- the table ---------------------------------------------------------------------------------------------

ROW = {"network": "TinyTen", "step": "training", "images": 1024, "precision": "fp32", "compiled": False, "flop": 4e9}
MEASURED = {"seconds": 0.004, "kernels": 83.2, "starts": 80.0, "waits": 0.0, "busy": 0.003, "memory": 1234.5}
RECORD = {
    "machine": {"gpu": "cuda (NVIDIA)", "torch": "2.14"},
    "operations_a_second": {"fp32": 2e12, "bf16": 8e12},
    "rows": [
        ROW | MEASURED,
        ROW | MEASURED | {"precision": "bf16", "compiled": True},
        ROW | dict.fromkeys(MEASURED) | {"seconds": 0.004},
        ROW | dict.fromkeys(MEASURED) | {"seconds": 0.004, "flop": None},
        ROW | {"network": "ResNet32", "failed": "out of memory"},
    ],
}


def test_the_table(tmp_path):
    gpu.write(RECORD, tmp_path)
    text = (tmp_path / "gpu.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| training", "###"))]
    assert lines == [
        "### TinyTen",
        "| training | 1,024 | fp32 | 4.00 | 83 | 80 | 0.00 | 75 % | 1,234 | 2.00× |",
        "| training | 1,024 | bf16 compiled | 4.00 | 83 | 80 | 0.00 | 75 % | 1,234 | 8.00× |",
        "| training | 1,024 | fp32 | 4.00 |  |  |  |  |  | 2.00× |",
        "| training | 1,024 | fp32 | 4.00 |  |  |  |  |  |  |",
        "### ResNet32",
        "| training | 1,024 | fp32 | failed: out of memory |  |  |  |  |  |  |",
    ]
    assert "2.0 TFLOP/s in fp32 and 8.0 TFLOP/s in bf16" in text
    assert all(line.count("|") == len(gpu.HEAD) + 1 for line in text.splitlines() if line.startswith("|"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(gpu.parse_args(["--out", str(tmp_path)]))
    assert capsys.readouterr().out.splitlines() == [
        "There is no GPU here that torch can use: the benchmark of GPUs is left out."
    ]
    assert not list(tmp_path.iterdir())


# --- processes ---------------------------------------------------------------------------------------------


def test_numbers_of_processes_take_turns(monkeypatch):
    """Each process has one thread; of what is printed the last line is the result."""
    turns = []

    def run(command, env, **_):
        turns.append(int(command[command.index("--nproc_per_node") + 1]))
        assert env["OMP_NUM_THREADS"] == "1"
        assert command[-1] == "640"
        told = json.dumps({"epoch": 10 * len(turns), "points": len(turns)})
        return subprocess.CompletedProcess(command, 0, stdout=f"epoch 1/1\n{told}\n")

    monkeypatch.setattr(subprocess, "run", run)
    found = bench.by_processes((1, 2), 640, rounds=2)
    assert turns == [1, 2, 1, 2]
    assert found == {"epoch": {"1": [10, 30], "2": [20, 40]}, "points": {"1": [1, 3], "2": [2, 4]}}
