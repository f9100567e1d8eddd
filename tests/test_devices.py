"""Devices that are not here: all stages on an emulated one, by the rules of CUDA and of mps; what is said of them."""

import contextlib
import copy
import os
import sys

import emulated
import numpy as np
import processes
import pytest
import torch
from conftest import write_image_folder
from stages import fails, run, run_as_process
from torch import nn

from models import MODELS
from utils import activations, devices, distributed, pam, training
from utils.attack import Attack
from utils.curves import Curve, FlatParameters, digest
from utils.measuring import evaluate, probabilities, reestimate_batch_norm
from utils.pam import PermutationTask, path_loss
from utils.stages import machine, process
from utils.stages.data import load_data
from utils.stages.files import save_checkpoint
from utils.stages.machine import set_products
from utils.stages.originals import load_checkpoint
from utils.stages.records import Record
from utils.stages.runs import Run
from utils.symmetries.spec import permutation_spec
from utils.training import CurveTask, NetworkTask, fit

needs_emulation = pytest.mark.skipif(emulated.MISSING is not None, reason=str(emulated.MISSING))

RULES = {"cuda": emulated.CUDA, "mps": emulated.MPS}
DEVICE = emulated.NAME


@pytest.fixture(params=RULES)
def rules(request, monkeypatch):
    """Rules of a device, with the CPU's weights and images as these want them, so that its numbers are the same."""
    if not RULES[request.param].channels_last:
        monkeypatch.setattr(devices, "CHANNELS_LAST", frozenset())
    return RULES[request.param]


# --- whole stages ------------------------------------------------------------------------------------------

PATH = ["--epochs_model", 1, "--epochs_curve", 1, "--alignment", "corr"]
PIPELINE = (
    ("training/train_model.py", "--epochs", 1, "--seed", 1),
    ("training/train_model.py", "--epochs", 1, "--seed", 2),
    ("alignment/align_models.py", "--epochs", 1),
    ("alignment/align_models_w2.py", "--epochs", 1),
    ("alignment/align_many.py", "--epochs", 1, "--method", "weight"),
    ("training/train_curve.py", "--epochs_model", 1, "--epochs", 1, "--alignment", "corr", "--val_freq", 1),
    ("training/train_curve_pam.py", "--epochs_model", 1, "--inner_iters_perm", 1, "--inner_iters_phi", 1),
    ("evaluation/eval_curve.py", *PATH, "--num_points", 3, "--eval_train"),
    ("evaluation/eval_plane_with_curve.py", *PATH, "--num_points", 2),
    ("evaluation/eval_plane_with_alignment.py", "--epochs_model", 1, "--num_points", 2),
    ("alignment/align_along_curve.py", *PATH),
    ("training/train_model_adversarial.py", "--epochs", 1, "--seed", 1, "--attack_steps", 1),
    ("training/train_model_adversarial.py", "--epochs", 1, "--seed", 2, "--attack_steps", 1),
    ("alignment/align_models.py", "--epochs", 1, "--adversarial"),
    ("training/train_curve_adversarial.py", "--epochs_model", 1, "--epochs", 1, "--attack_steps", 1),
    ("evaluation/eval_adversarial_curve.py", *PATH[:4], "--num_points", 2, "--attack_steps", 1),
)


def numbers(value, name=""):
    """Every number in a checkpoint or an archive of arrays, by its place."""
    if isinstance(value, dict):
        return {k: v for key, entry in value.items() for k, v in numbers(entry, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return numbers(dict(enumerate(value)), name)
    if isinstance(value, torch.Tensor):
        assert value.device.type == "cpu", name  # or others could not read it
        return {name: value.double().numpy()}
    is_number = isinstance(value, (int, float)) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")
    return {name: np.asarray(value, np.float64)} if is_number else {}


def read(path):
    if path.suffix == ".pt":
        return numbers(torch.load(path, weights_only=True))
    arrays = np.load(path)
    return numbers(dict(arrays) if path.suffix == ".npz" else arrays)


@needs_emulation
@pytest.mark.long
def test_stages_end_with_the_numbers_of_the_cpu(rules, tmp_path, quick_pam, monkeypatch):
    """All of them unchanged, on a device on which what its rules forbid is an error."""
    monkeypatch.setattr(activations, "PIECE", 10**9)  # devices have no caches of that size
    monkeypatch.setattr(activations, "CHUNK", activations.CHUNK_ON_DEVICE)
    write_image_folder(tmp_path / "data/bars", train=12, test=5)
    where = ["--dataset", "bars", "--data_path", tmp_path / "data", "--batch_size", 20]
    for script, *flags in PIPELINE:
        run(script, *where, *flags, "--root", tmp_path / "cpu", "--device", "cpu")
        with emulated.rules(rules) as emulation:
            run(script, *where, *flags, "--root", tmp_path / "device", "--device", emulated.NAME)
        assert emulation.operations > 500, script
    files = {path.relative_to(tmp_path / "cpu") for path in (tmp_path / "cpu").rglob("*.[pn]*") if path.is_file()}
    assert len({path for path in files if path.suffix in (".pt", ".npy", ".npz")}) > 30
    assert files == {path.relative_to(tmp_path / "device") for path in (tmp_path / "device").rglob("*.[pn]*")} & files
    for path in files:
        expected, found = read(tmp_path / "cpu" / path), read(tmp_path / "device" / path)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{path} {name}")


@needs_emulation
@pytest.mark.parametrize("use_test", [True, False])
def test_images_that_a_device_has_no_room_for_come_as_they_are_used(use_test, data_path, monkeypatch):
    """The same images, bit for bit, in chunks of 32, for which the host does not wait."""

    def seen(device):
        data = load_data("bars", folder=data_path, transform="TinyTen", use_test=use_test, device=device)
        sets = (data.train, data.test, data.held_out, data.for_batch_norm(50))
        emulation.waits.clear()
        augmented = (images.augmented(16, torch.Generator().manual_seed(0)) for images in sets)
        batches = [batch for some in (*augmented, *(images.batches(16) for images in sets)) for batch in some]
        waits = emulation.waits.copy()
        assert {tensor.device.type for batch in batches for tensor in batch} == {device}
        return data.train.pixels.device.type, waits, [tensor.cpu() for batch in batches for tensor in batch]

    monkeypatch.setattr(devices, "PIXELS_AT_ONCE", 32 * 16 * 16)
    with emulated.rules(emulated.CUDA) as emulation:
        (_, _, expected), (there, _, whole) = seen("cpu"), seen(DEVICE)
        monkeypatch.setattr("utils.stages.data.free_memory", lambda device: 0)
        here, waits, streamed = seen(DEVICE)
    assert (there, here, waits.total()) == (DEVICE, "cpu", 0)
    assert all(map(torch.equal, expected, whole))
    assert all(map(torch.equal, expected, streamed))


# --- every architecture, and every kind of step ------------------------------------------------------------


def small_data(data_path, device):
    return load_data("bars", folder=data_path, transform="TinyTen", device=device)


def task_of(kind, name, device):
    """What `fit` learns, with everything of it on the device."""
    torch.manual_seed(0)
    a, b = (MODELS[name](4) for _ in range(2))
    layout = {"device": device, "memory_format": devices.memory_format(device)}
    if kind == "network":
        return NetworkTask(a.to(**layout))
    if kind == "robust network":
        return NetworkTask(a.to(**layout), attack=Attack(8 / 255, 2 / 255, 1))
    state_b = b.state_dict()
    curve = Curve.between(a, a.state_dict(), state_b).to(**layout)
    if kind == "curve":
        return CurveTask(curve)
    return PermutationTask(curve, permutation_spec(copy.deepcopy(b)), state_b, torch.zeros_like(curve.row(0)))


KINDS = ("network", "robust network", "curve", "permutations")


@needs_emulation
@pytest.mark.parametrize(("kind", "name"), [("network", "ResNet32"), ("curve", "ResNet32"), ("curve", "GoogLeNet")])
def test_steps_of_every_architecture(kind, name, rules, data_path):
    def learned(device):
        train = small_data(data_path, device).train.subset(torch.arange(4) * 40)
        task = task_of(kind, name, device)
        for layer in task.module.modules():
            if isinstance(layer, nn.Dropout):  # another kernel on GPUs, with draws of its own
                layer.p = 0.0
        history = fit(task, train, rates=[0.01], batch_size=2)
        network = task.module if kind == "network" else task.module.place(0.5)
        reestimate_batch_norm(network, train)
        loss, _ = evaluate(network, train)
        return [history["loss_train"][0], loss]

    with emulated.rules(rules):
        found = learned(DEVICE)
    assert found == learned("cpu")


def epoch(kind):
    """One epoch of learning, of images (n, 3, H, W) in batches of a size."""
    task = task_of(kind, "TinyTen", DEVICE)
    return lambda images, batch_size: fit(task, images, rates=[0.01], batch_size=batch_size)


def statistics():
    network = task_of("network", "TinyTen", DEVICE).module
    return lambda images, batch_size: reestimate_batch_norm(network, images, batch_size=batch_size)


def evaluation():
    network = task_of("network", "TinyTen", DEVICE).module
    return lambda images, batch_size: evaluate(network, images, batch_size=batch_size)


def rounding():
    task = task_of("permutations", "TinyTen", DEVICE)
    permutations = task.spec.identity()
    return lambda images, batch_size: path_loss(task, permutations, images, batch_size=batch_size, precision="fp32")


# Kernels that a batch may start, for TinyTen. On CUDA one kernel of the optimizer moves all parameters; here each of
# 34 has four.
OPTIMIZER = 34 * 4
BOUNDS = {
    "network": (lambda: epoch("network"), 90 + OPTIMIZER),
    "robust network": (lambda: epoch("robust network"), 180 + OPTIMIZER),
    "curve": (lambda: epoch("curve"), 120),
    "permutations": (lambda: epoch("permutations"), 750),
    "statistics": (statistics, 50),
    "evaluation": (evaluation, 45),
    "rounding": (rounding, 60),
}


@needs_emulation
@pytest.mark.parametrize("kind", BOUNDS)
def test_no_step_waits_for_the_device(kind, data_path):
    """There are as many waits in many steps as in few, and a bound to the kernels that a step starts."""

    def counted(batch_size):
        train = small_data(data_path, DEVICE).train
        work = make()
        emulation.waits.clear()
        emulation.kernels.clear()
        work(train, batch_size)
        return emulation.waits.copy(), emulation.kernels.total()

    make, bound = BOUNDS[kind]
    with emulated.rules(emulated.CUDA) as emulation:
        (few, less), (many, more) = counted(80), counted(20)
    assert few == many
    assert few.total() < 10
    started = (more - less) / 6
    print(f"{kind}: {started:.0f} kernels a batch")  # docs/speed.md has them
    assert started <= bound


@needs_emulation
def test_a_comparison_of_activations_waits_once_a_chunk(monkeypatch, data_path):
    torch.manual_seed(0)
    a, b = (MODELS["TinyTen"](4).eval() for _ in range(2))
    spec = permutation_spec(a)

    def waits(chunk):
        for name in ("CHUNK", "CHUNK_ON_DEVICE"):
            monkeypatch.setattr(activations, name, chunk)
        emulation.waits.clear()
        activations.cross_moments(a, b, spec, images.batches(80))
        return emulation.waits.total()

    with emulated.rules(emulated.CUDA) as emulation:
        images, _ = small_data(data_path, DEVICE).train, (a.to(DEVICE), b.to(DEVICE))
        assert waits(20) - waits(40) == 8 - 4


# --- CUDA's graphs and fused optimizers --------------------------------------------------------------------


@contextlib.contextmanager
def overwritten(network):
    """In this block what a network puts out is lost when it runs again, as of a graph. So would gradients be."""
    given = []

    def lose(module, _):
        assert not torch.is_grad_enabled() or all(parameter.grad is None for parameter in module.parameters())
        while given:
            given.pop().fill_(torch.nan)

    def keep(module, _, output):
        given.append(output.data)

    hooks = network.register_forward_pre_hook(lose), network.register_forward_hook(keep)
    yield
    lose(torch.nn.Module(), ())
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_graph_puts_out_is_used_before_it_runs_again(kind, data_path):
    def learned(around):
        data, task = small_data(data_path, "cpu"), task_of(kind, "TinyTen", "cpu")
        curve = getattr(task, "curve", task.module)
        network = curve.base if isinstance(curve, Curve) else curve
        with around(curve):
            history = fit(task, data.train, rates=[0.01], batch_size=80)
        with around(network):
            reestimate_batch_norm(network, data.train, batch_size=80)
            measured = evaluate(network, data.test, batch_size=20)
            predicted, _ = probabilities(network, data.test, batch_size=20)
        return history, measured, predicted, [value.clone() for value in task.module.state_dict().values()]

    plain, safe = (learned(around) for around in (contextlib.nullcontext, overwritten))
    assert plain[:2] == safe[:2]
    assert all(map(torch.equal, [plain[2], *plain[3]], [safe[2], *safe[3]]))


def test_a_compiled_projection_learns_the_same(monkeypatch, data_path):
    assert devices.compile_options(torch.device("cuda", 0)) == {"dynamic": False, "mode": "reduce-overhead"}
    assert devices.compile_options(torch.device("cpu")) == {"dynamic": False}
    monkeypatch.setattr(pam, "compile_options", lambda device: {"dynamic": False, "backend": "eager"})
    train = small_data(data_path, "cpu").train.subset(torch.arange(4) * 40)
    plain, compiled = (task_of("permutations", "TinyTen", "cpu") for _ in range(2))
    compiled.soft.compile()
    for task in (plain, compiled):
        fit(task, train, rates=[0.5], momentum=0.0, batch_size=2)
    assert all(map(torch.equal, plain.soft.stacks, compiled.soft.stacks))
    assert not torch.equal(plain.soft.stacks[0][0], torch.eye(16))


def test_a_run_goes_on_with_an_optimizer_of_its_device(monkeypatch, tmp_path, data_path):
    """Its steps are fused where the device has that, whatever the file is of; what it learns is the same."""
    train = small_data(data_path, "cpu").train.subset(torch.arange(4) * 40)
    states = []
    for fused in ((False, False), (True, False)):
        task, stem = task_of("network", "TinyTen", "cpu"), tmp_path / f"run{len(states)}"
        for epochs, is_fused in enumerate(fused, start=1):
            monkeypatch.setattr(training, "has_fused_step", lambda parameters, it=is_fused: it)
            run = Run(stem, Record(flags={"seed": 1}), epochs, 1, stem.with_suffix(".npz"), resume=epochs > 1)
            fit(task, train, run, rates=[0.01] * epochs, batch_size=2)
            (group,) = load_checkpoint(run.checkpoint)["optimizer_state"]["param_groups"]
            assert bool(group["fused"]) == is_fused
        states.append(task.module.state_dict())
    for one, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, other)


def test_layouts_of_weights(monkeypatch):
    """Where convolutions do not take channels last there are none: not even strides that could be taken for them."""
    network = MODELS["TinyTen"](4)
    flat, curve = FlatParameters(network), Curve.between(network, network.state_dict(), network.state_dict())
    vector, known = flat.flatten(network.state_dict()), curve.digests()
    assert all(view.data_ptr() >= vector.data_ptr() for view in flat.views(vector).values())
    monkeypatch.setattr(devices, "CHANNELS_LAST", frozenset())
    for (name, view), weight in zip(flat.views(vector).items(), network.parameters(), strict=True):
        assert view.stride() == weight.stride(), name
        assert torch.equal(view, weight)
    assert curve.digests() == known
    assert digest(flat.flatten(flat.views(vector))) == digest(vector)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="needs glibc")
def test_memory_that_is_freed_is_used_again():
    """The system clears a page when it is first touched, and so does it again when it has been given back."""
    code = (
        "import resource, torch\n"
        "from utils.stages.machine import keep_memory\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def touch():\n"
        "    before = faults()\n"
        "    torch.zeros(2**24).add_(1)\n"  # 64 MB
        "    return faults() - before\n"
        "print(touch(), touch())\n"
        "keep_memory()\n"
        "print([touch() for _ in range(12)][-1])\n"
    )
    first, second, again = map(int, processes.output(sys.executable, "-c", code, cwd=emulated.REPOSITORY).split())
    assert min(first, second) > 20 * again


# --- the emulation itself ----------------------------------------------------------------------------------


@needs_emulation
def test_what_the_emulation_refuses():
    with emulated.rules(emulated.MPS):
        x = torch.ones(2, 3, 4, 4, device=DEVICE)
        for refused in (
            lambda: x + torch.ones(4),
            lambda: x.double(),
            lambda: x.to("cpu", torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
            lambda: x.to("cpu", non_blocking=True),
            lambda: nn.functional.conv2d(x.to(memory_format=torch.channels_last), torch.ones(1, 3, 1, 1).to(DEVICE)),
        ):
            with pytest.raises(emulated.Refused):
                refused()
        assert x.cpu().double().dtype == torch.float64
        assert (2 * x + torch.tensor(1.0)).tolist()[0][0][0][0] == 3.0
    with emulated.rules(emulated.CUDA):
        assert torch.ones(2, device=DEVICE).double().sum().item() == 2.0


@needs_emulation
def test_what_the_emulation_counts(data_path):
    with emulated.rules(emulated.CUDA) as emulation:
        x = torch.ones(4, device=DEVICE)
        x.mul_(2).add(x)
        assert not emulation.waits
        for waiting in (x.sum().item, x.cpu, x.nonzero, lambda: x[x > 0], lambda: torch.ones(2).to(DEVICE)):
            before = emulation.waits.total()
            waiting()
            assert emulation.waits.total() == before + 1
        devices.send(torch.ones(2), torch.device(DEVICE))
        assert emulation.waits.total() == before + 1
        evaluate(task_of("network", "TinyTen", DEVICE).module, small_data(data_path, DEVICE).test)
    assert any(file == "utils/losses.py" and line > 0 for file, line in emulation.waits)


# --- what is said ------------------------------------------------------------------------------------------


def test_a_stage_says_on_what_it_runs(flags, capsys):
    run_as_process("training/train_model.py", *flags, "--device", "cpu", "--epochs", 1, "--precision", "bf16")
    threads = torch.get_num_threads()
    said = f"Running on cpu ({threads} thread{'s' * (threads > 1)}), bf16."
    assert capsys.readouterr().out.splitlines()[0] == said


@pytest.mark.parametrize(
    ("listed", "quotas", "cores"),
    [
        ("0::/", {}, 6),
        (
            "0::/a/b",
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"},
            1,
        ),  # half a core, of the group around
        ("0::/far/away", {"cpu.max": "250000 100000"}, 3),  # in a container, which sees its own group as the root
        ("2:memory:/a\n4:cpu,cpuacct:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000"}, 2),
        ("1:cpu:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "-1", "unified/cpu.max": "900000 100000"}, 6),
        ("3:memory:/a", {"cpu/a/cpu.cfs_quota_us": "50000"}, 6),
    ],
)
def test_threads_are_no_more_than_cores_that_can_be_kept_busy(listed, quotas, cores, tmp_path, monkeypatch):
    for name, text in {
        "proc/self/cgroup": listed,
        **{f"sys/fs/cgroup/{name}": quotas[name] for name in quotas},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        if path.name == "cpu.cfs_quota_us":
            path.with_name("cpu.cfs_period_us").write_text("100000\n")
    usable = machine.usable_cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: usable(tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine.limit_threads()
    assert given == ([cores] if cores < 4 else [])
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    machine.limit_threads()
    assert len(given) == (cores < 4)  # as the user says
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    assert (machine.crowded() is not None) == (cores < 4)


def test_a_note_says_that_the_load_is_above_the_cores(flags, capsys, monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx512f\n\nFeatures\t: fp asimd bf16\n")
    assert machine.multiplies_bf16(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512f\nbugs\t\t: bf16\n")
    assert not machine.multiplies_bf16(cpuinfo)
    monkeypatch.setattr(process, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for load, precision in ((8.2, ()), (9.1, ()), (9.1, ("--precision", "fp32"))):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        run_as_process("training/train_model.py", *flags, "--device", "cpu", "--epochs", 1, "--overwrite", *precision)
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert ("--precision bf16 would pay" in first) == (not precision)
        assert first.startswith("Running on cpu (2 threads), fp32")
        assert second.startswith("Note: a load of 9.1 on 8 cores: ") == (load > 9)


@pytest.mark.parametrize(
    ("script", "precision", "words"),
    [
        ("training/train_model.py", "tf32", "cpu has no tf32"),
        ("alignment/align_models.py", "bf16", "activations are compared in fp32 only"),
        ("alignment/align_along_curve.py", "bf16", "activations are compared in fp32 only"),
    ],
)
def test_a_precision_that_cannot_be_had(script, precision, words, flags, capsys, tmp_path):
    code, line = fails(capsys, script, *flags, "--device", "cpu", "--precision", precision)
    assert code == 2
    assert f"--precision {precision}: {words}" in line
    assert not list(tmp_path.iterdir())


@needs_emulation
def test_a_gpu_without_kernels_is_refused_before_the_work(flags, capsys, monkeypatch):
    def missing(*_):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors")

    with emulated.rules(emulated.CUDA):
        run("training/train_model.py", *flags, "--device", emulated.NAME, "--epochs", 1)
        monkeypatch.setattr(torch.nn.functional, "conv2d", missing)
        code, line = fails(capsys, "training/train_model.py", *flags, "--device", emulated.NAME)
    assert code == 2
    reason = "CUDA error: no kernel image is available for execution on the device"
    assert line.endswith(f"--device emulated cannot be used here: {reason}; --device cpu does without it")


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"),
    RuntimeError("Invalid buffer size: 29.53 GB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other call"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    MemoryError("Unable to allocate 10.0 GiB for an array"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_out_of_memory_is_one_line(error, flags, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("training.train_model.fit", fail)
    code, line = fails(capsys, "training/train_model.py", *flags, "--device", "cpu")
    assert (code, "out of memory; try a smaller --batch_size" in line) == (1, True)
    for other in (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), ValueError("out of memory")):
        assert not machine.is_out_of_memory(other)


MASTER = {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, **MASTER}.items():
        monkeypatch.setenv(name, str(value))


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, "


@pytest.mark.parametrize(
    ("error", "of_connection", "lost"),
    [
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5823", True, True),
        ("[gloo/transport/tcp/pair.cc:457] writev [127.0.0.1]:2: Broken pipe", True, True),
        (f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.5", True, True),
        ("failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown?", True, True),
        (f"{NCCL}unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5", True, False),
        (f"{NCCL}invalid usage, Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000", True, False),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False, False),
    ],
)
def test_only_a_lost_connection_is_one(error, of_connection, lost):
    assert (process.is_of_connection(RuntimeError(error)) or lost) == of_connection
    assert process.is_lost_connection(RuntimeError(error)) == lost


def test_more_processes_than_gpus(flags, capsys, monkeypatch, second_of_two):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, line = fails(capsys, "training/train_model.py", *flags)
    assert code == 2
    assert "2 processes are started on this machine, where torch sees 1 GPU" in line


def test_processes_wait_for_each_other_as_long_as_it_takes(monkeypatch, second_of_two):
    """A process that is a whole point of a curve ahead waits longer than torch would by default."""
    asked = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: asked.update(options))
    distributed.start(torch.device("cpu"))
    assert asked["timeout"].days >= 1


def test_convolutions_alone_are_rounded_to_tf32():
    """θ(t), P·B and correlations are matrix products. torch refuses a mixture of its old and new switches."""
    conv, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, products.fp32_precision
    try:
        for precision, expected in (("tf32", "tf32"), ("bf16", "ieee"), ("fp32", "ieee")):
            set_products(precision)
            assert (conv.fp32_precision, products.fp32_precision) == (expected, "ieee")
            assert products.allow_tf32 is False
    finally:
        conv.fp32_precision, products.fp32_precision = before


@needs_emulation
def test_checkpoints_hold_tensors_of_the_cpu(tmp_path):
    with emulated.rules(emulated.MPS):
        network = MODELS["TinyTen"](4).to(DEVICE)
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        network(torch.ones(2, 3, 16, 16, device=DEVICE)).sum().backward()
        optimizer.step()
        state = network.state_dict()
        entries = {"model_state": state, "points": {1: state}, "optimizer_state": optimizer.state_dict()}
        save_checkpoint(tmp_path / "c.pt", {"epoch": 1, **entries})
        loaded = load_checkpoint(tmp_path / "c.pt")
        assert loaded["points"][1]["dense.weight"].data_ptr() == loaded["model_state"]["dense.weight"].data_ptr()
        assert all(tensor.device.type == "cpu" for tensor in loaded["model_state"].values())
        momentum = [entry["momentum_buffer"] for entry in loaded["optimizer_state"]["state"].values()]
        assert all(torch.equal(m, p.grad.cpu()) for m, p in zip(momentum, network.parameters(), strict=True))
        optimizer.load_state_dict(loaded["optimizer_state"])
        assert {entry["momentum_buffer"].device for entry in optimizer.state.values()} == {torch.device(DEVICE, 0)}
