"""The Snakefile: its presets name commands that the scripts accept, and a small one runs to its report."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

from utils.matching import METHODS
from utils.stages.files import save_arrays
from utils.stages.layout import Layout

REPOSITORY = Path(__file__).resolve().parent.parent
SNAKEMAKE = ["-m", "snakemake", "--directory", REPOSITORY, "--snakefile", REPOSITORY / "Snakefile"]

# Jobs of each kind: pairs, networks, datasets and alignments multiplied out
JOBS = {
    "demo": {"images": 1, "network": 2, "match": 1, "curve": 2, "evaluation": 4},
    # 3 matches by each of corr and weight; 4 curves a pair, 2 lines beside them, and 3 more
    "cifar10-cpu": {"images": 1, "network": 6, "match": 6, "curve": 6, "pam": 6, "evaluation": 3 * (4 + 2 + 3)},
    # 3 models × 3 datasets × 6 seeds, plain and robust. 5 curves: of 3 pairs with one seed, of 2 with another.
    "paper": {
        "images": 3,
        "network": 2 * 3 * 3 * 6,
        "match": 3 * 3 * (3 + 3 + 2 * 2),  # corr, corr of robust networks, and two by L2 for two models
        "curve": 3 * 5 * (4 + 4 + 2 + 3 * 2),  # for TinyTen, ResNet32, GoogLeNet, and robust networks
        "pam": 3 * 5 * 2 * 2,
        "evaluation": 3 * (5 * (6 + 6 + 2 + 3 * 2) + 3 * (4 + 4 + 2 + 3 * 2)),  # curves and lines
        "plane": 3 * 3 * 3 * 2,
        "aligned_plane": 3 * 3 * 3,
        "midpoint": 3 * 3 * 3 * 2 * 2,
    },
}


def test_its_matches_are_by_methods_that_are_registered():
    named = re.findall(r"--method (\w+)", (REPOSITORY / "Snakefile").read_text())
    assert named and set(named) <= METHODS.keys()


def snakemake(*flags, python=sys.executable):
    """What it prints; python: the interpreter with which it runs stages."""
    return processes.output(python, *SNAKEMAKE, "--cores", 1, "--nolock", *flags, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("preset", JOBS)
def test_dry_runs(preset, tmp_path):
    """The expected jobs, each with a command line that its script accepts."""
    dry = ("-n", "--configfile", REPOSITORY / f"presets/{preset}.yaml", "--config", f"root={tmp_path}")
    lines = snakemake(*dry).splitlines()
    table = [line.split() for line in lines]
    counts = {words[0]: int(words[1]) for words in table if len(words) == 2 and words[1].isdigit()}
    assert {name: counts.get(name) for name in JOBS[preset]} == JOBS[preset]
    commands = [
        shlex.split(re.sub(r"\$\(.*\)", "", line.removeprefix("Shell command: ")).partition(" 2>&1 | ")[0])
        for line in lines
        if line.startswith(f"Shell command: {sys.executable}")
    ]
    assert len(commands) == sum(JOBS[preset].values())
    matches = set()
    for _, script, *flags in commands:
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        args = module.parse_args(flags)
        assert args.root == tmp_path
        assert getattr(args, "alignment", "") != "null"  # as a user would say it
        matches.add(getattr(args, "align_name", "corr"))
        if preset == "paper" and "curve" in script:
            lengths = [vars(args).get(flag) for flag in ("epochs_curve", "inner_iters_phi", "epochs")]
            epochs = next(length for length in lengths if length is not None)
            robust = 20 if args.model == "GoogLeNet" else 200
            if robust == 20 and "train" in script and "adversarial" in script:  # kept at the constant rate
                assert (epochs, args.save_freq) == (200, 20)
                epochs = 20
            assert epochs in (0, robust if "adversarial" in script else 250)
            assert args.epochs_model == (200 if "adversarial" in script else 250)
            assert args.seed in (1, {1: 1, 3: 2, 5: 3}[args.seed_a])
        few = "plane" in script or "along_curve" in script or "eval_adversarial" in script
        assert getattr(args, "bn_images", None) == (10_000 if preset == "paper" and few else None)
        if preset == "paper" and "train_model" in script:
            plain_cifar10 = args.dataset == "CIFAR10" and "adversarial" not in script
            assert args.batch_size == (64 if plain_cifar10 else 128)
    others = {"paper": {"w2_pre", "w2_post"}, "cifar10-cpu": {"weight"}}
    assert matches == {"corr", *others.get(preset, ())}


CONFIG = """
root: {root}
data_path: {data_path}
datasets:
  bars:
pairs: [[1, 2]]
figure_seed: 2
table_seeds: [2]
alignments:
  TinyTen: [pam_null, corr]
lines:
  TinyTen: [pam_null, weight]
robust_alignments:
  TinyTen: [corr]
planes:
  TinyTen: [corr]
midpoints:
  TinyTen: [corr]
epochs_model: 2
epochs_curve: 1
robust_epochs_model: 1
robust_epochs_curve: {{ TinyTen: 2 }}
flags:
  all: --batch_size 32 --device cpu
  pam: --inner_iters_perm 1
  evaluation: --num_points 3
  plane: --num_points 2
"""


@pytest.mark.long
def test_a_small_experiment(tmp_path, data_path, warm_python):
    """From nothing to the report; then nothing is left to do, and what is lost is made again."""
    preset = tmp_path / "small.yaml"
    preset.write_text(CONFIG.format(root=tmp_path / "runs", data_path=data_path))
    snakemake("--configfile", preset, python=warm_python)
    page = (tmp_path / "runs/figures/report.html").read_text()
    paths = ("line, aligned", "curve, PAM unaligned, curve seed 2", "curve, aligned, curve seed 2")
    figures = ("planes of curves", "what alignment does", "midpoint of the path", "activations of A and B")
    for words in (*paths, *figures, "Robust networks", "robust accuracy"):
        assert words in page
    table = (tmp_path / "runs/figures/table_bars_TinyTen.md").read_text()
    assert "| curve, aligned, curve seed 2 |" in table
    assert "| curve, aligned |" not in table
    comparison = (tmp_path / "runs/figures/comparison_bars_TinyTen.csv").read_text()
    for path in ("line, aligned by weights", 'line, PAM unaligned, curve seed 2"'):
        for quantity in ("accuracy", "distance", "correlation", "seconds"):
            assert re.search(f"{path}.*,{quantity},", comparison), (path, quantity)
    assert len(list(tmp_path.glob("runs/figures/training_networks*.png"))) == 1
    robust = tmp_path / "runs/model_dicts"
    assert next(robust.glob("adversarial_models/*/*/checkpoint_seed_01-1.pt"))
    assert next(robust.glob("adversarial_curve_models/*/*/checkpoint_align_corr_seeds_01_02_seed_2-2.pt"))
    assert "Nothing to be done" in snakemake("-n", "--configfile", preset)
    lost = next((tmp_path / "runs/model_data/curves").rglob("curve_align_corr_*-1.npz"))
    lost.unlink()
    assert re.search(r"^evaluation +1$", snakemake("-n", "--configfile", preset), re.MULTILINE)
    shutil.rmtree(tmp_path / "runs/figures")
    shutil.rmtree(tmp_path / "runs/images")
    dry = snakemake("-n", "--configfile", preset)
    assert "evaluation" in dry
    assert "network" not in dry


def test_a_failed_stage_is_found_in_its_log(tmp_path):
    """Also on the terminal, behind the log's name; the whole run fails as the stage did."""
    preset = tmp_path / "small.yaml"
    preset.write_text(CONFIG.format(root=tmp_path, data_path=tmp_path / "nothing"))
    ended = processes.run(sys.executable, *SNAKEMAKE, "--cores", 1, "--nolock", "--configfile", preset)
    assert ended.returncode == 1
    (message,) = [line for line in (tmp_path / "logs/images_bars.log").read_text().splitlines() if "error:" in line]
    assert f"[images_bars] {message}" in ended.stdout + ended.stderr


def test_a_part_of_a_preset(tmp_path):
    """Four networks a model and dataset: of two seeds, plain and robust."""
    made, preset = dict.fromkeys(("TinyTen", "ResNet32"), ["corr"]), tmp_path / "parts.yaml"
    datasets = dict.fromkeys(("bars", "rods", "poles"))
    whole = {"root": str(tmp_path), "datasets": datasets, "pairs": [[1, 2]], "epochs_model": 2, "epochs_curve": 1}
    preset.write_text(json.dumps(whole | {"alignments": made, "robust_alignments": made}))
    part = ("-n", "--configfile", preset, "--config")
    selections = {"only_models=TinyTen": 12, "only_datasets=[rods, poles]": 16, "pairs=[[1,2],[3,4]]": 48}
    for selection, jobs in selections.items():
        assert re.search(rf"^network +{jobs}$", snakemake(*part, selection), re.MULTILINE)
    with pytest.raises(AssertionError, match="only_datasets: the preset has no nothing"):
        snakemake(*part, "only_datasets=nothing")


LINES = """
root: {root}
datasets:
  bars:
pairs: [[1, 2], [3, 4]]
table_seeds: [1, 2]
alignments: {{}}
lines:
  TinyTen: [pam_null, weight]
planes:
  TinyTen: [pam_null]
epochs_model: 2
epochs_curve: 1
"""


def test_lines_are_those_that_tables_show(tmp_path):
    """PAM's matches are of each pair's own seed, whatever that of the curves in figures."""
    preset = tmp_path / "lines.yaml"
    preset.write_text(LINES.format(root=tmp_path))
    dry = snakemake("-n", "--configfile", preset)
    lines = re.findall(r"eval_curve\.py .*--seed_a (\d) (.*)--epochs_model 2 --epochs_curve 0 --alignment (\w+)", dry)
    of_second = "--seed_b 4 --seed 2 "
    expected = [("1", "--seed_b 2 ", "pam_null"), ("3", of_second, "pam_null")]
    expected += [("1", "--seed_b 2 ", "weight"), ("3", "--seed_b 4 ", "weight")]
    assert sorted(lines) == sorted(expected)
    runs = set(re.findall(r"train_curve_pam\.py .*(--seed_a .*)--epochs_model", dry))
    assert runs == {"--seed_a 1 --seed_b 2 ", "--seed_a 3 --seed_b 4 ", f"--seed_a 3 {of_second}"}


ROBUST = """
root: {root}
datasets:
  bars:
pairs: [[1, 2]]
alignments: {{}}
robust_alignments:
  TinyTen: ["null"]
epochs_model: 2
epochs_curve: 1
"""


def test_the_report_of_robust_networks_alone(tmp_path, warm_python):
    """Where nothing of plain networks is evaluated, nothing of them is asked for."""
    preset, layout = tmp_path / "robust.yaml", Layout(tmp_path, "TinyTen", "bars", robust=True)
    preset.write_text(ROBUST.format(root=tmp_path))
    names = ("t", "length", "loss", "accuracy", "loss_robust", "accuracy_robust")
    for epochs in (0, 1):
        arrays = {name: np.linspace(0, 1, 3) for name in names} | {"coordinates": np.zeros((3, 2))}
        save_arrays(layout.evaluated("null", 1, 2, epochs), **arrays)
    only = ("--allowed-rules", "report", "all")
    snakemake("--configfile", preset, *only, python=warm_python)
    tables = sorted(path.name for path in tmp_path.glob("figures/*.md"))
    assert tables == ["robust_table_bars_TinyTen.md"]


PROBES = """
include: "{snakefile}"

rule probe:
    output: "{root}/probe_{{number}}"
    shell: "echo $CUDA_VISIBLE_DEVICES $(date +%s%N) > {{output}}; sleep 1; date +%s%N >> {{output}}"
"""


@pytest.mark.parametrize("gpus, jobs_per_gpu", [([3, 5], 1), ([3], 2)])
def test_jobs_share_gpus_out(gpus, jobs_per_gpu, tmp_path):
    """Two at once on two GPUs, each on one of its own, or both on one GPU; a third one waits for either."""
    preset, snakefile = tmp_path / "small.yaml", tmp_path / "Snakefile"
    preset.write_text(
        CONFIG.format(root=tmp_path, data_path=tmp_path) + f"gpus: {gpus}\njobs_per_gpu: {jobs_per_gpu}\n"
    )
    snakefile.write_text(PROBES.format(snakefile=REPOSITORY / "Snakefile", root=tmp_path))
    probes = [tmp_path / f"probe_{number}" for number in range(3)]
    flags = ("--snakefile", snakefile, "--cores", 3, "--nolock", "--configfile", preset, "--directory", tmp_path)
    processes.output(sys.executable, "-m", "snakemake", *flags, "--", *probes)
    jobs = sorted((start, int(end), gpu) for gpu, start, end in (probe.read_text().split() for probe in probes))
    assert {gpu for *_, gpu in jobs} == set(map(str, gpus))
    for start, _, gpu in jobs:  # the job that starts, and those that run then
        together = [job for job in jobs if job[2] == gpu and int(job[0]) <= int(start) < job[1]]
        assert len(together) <= jobs_per_gpu


def test_what_older_inputs_left_is_replaced(tmp_path):
    """And what is newer than all inputs, and was stopped, is gone on with."""
    source = (REPOSITORY / "Snakefile").read_text()
    function = source[source.index("resuming() {{") :].partition('"""')[0].replace("{{", "{").replace("}}", "}")
    left, made = tmp_path / "a b_perm1-2.pt", tmp_path / "net work"

    def flag(word):
        command = f'set -euo pipefail\n{function}\nresuming "$@"'
        return processes.output("bash", "-c", command, "job", word, f"{tmp_path}/*_perm1-*.pt", made).strip()

    made.touch()
    assert flag("--resume") == "--resume"  # nothing is there
    left.touch()
    os.utime(left, (1, 1))
    assert flag("--resume") == flag("") == "--overwrite"
    os.utime(made, (0, 0))
    assert flag("--resume") == "--resume"
    assert flag("") == ""
