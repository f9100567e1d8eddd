# Many experiments: every stage for each model, dataset and pair of networks that a preset names.
#
#     snakemake --configfile presets/cifar10-cpu.yaml --cores all
#
# The stages and their files are those of the scripts. Snakemake runs what is missing, in order and side by side, on this
# machine or on a cluster; a stage that was stopped goes on from its newest checkpoint when snakemake is called again.

import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
from utils.stages.layout import dataset_folder, is_path_of_data, model_folder

if not config:
    raise WorkflowError("name a preset, as in: snakemake --configfile presets/demo.yaml --cores all")
if lacking := {"root", "datasets", "pairs", "alignments", "epochs_model", "epochs_curve"} - config.keys():
    raise WorkflowError(f"the preset lacks {', '.join(sorted(lacking))}")
# The matches that a preset may name, and the flags that make them. Published so: --pre_act is of the match by L2
# distance that is not by what goes into the activations.
METHODS = {
    "corr": "",
    "corr_pre": "--method corr_pre",
    "corr_rotations": "--rotations",
    "w2_post": "--pre_act",
    "w2_pre": "",
    "weight": "--method weight",
    "weight_rotations": "--method weight --rotations",
}
# Of a large preset, a part: --config only_models=TinyTen 'only_datasets=[CIFAR10, CIFAR100]'
OF_MODELS = ("alignments", "robust_alignments", "lines", "planes", "midpoints")
for only, kinds in (("only_models", OF_MODELS), ("only_datasets", ("datasets",))):
    if wanted := config.get(only):
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if unknown := set(wanted).difference(*(config.get(kind, ()) for kind in kinds)):
            raise WorkflowError(f"{only}: the preset has no {', '.join(sorted(unknown))}")
        for kind in config.keys() & kinds:
            config[kind] = {name: config[kind][name] for name in wanted if name in config[kind]}
# Names, by the folders of their files
MODELS = {model_folder(model): model for kind in OF_MODELS for model in config.get(kind, ())}
DATASETS = {dataset_folder(dataset): dataset for dataset in config["datasets"]}
ROOT = os.path.expanduser(config["root"])
PAIRS = [[int(seed) for seed in pair] for pair in config["pairs"]]  # numbers in a list of --config are text
# Of the curves that figures show, which is the same for all pairs; and of those in tables, which may be one a pair
FIGURE_SEED = config.get("figure_seed", 1)
TABLE_SEEDS = [int(seed) for seed in config.get("table_seeds", [FIGURE_SEED] * len(PAIRS))]
if len(TABLE_SEEDS) != len(PAIRS):
    raise WorkflowError(f"table_seeds has {len(TABLE_SEEDS)} seeds for {len(PAIRS)} pairs")
PYTHON = shlex.quote(sys.executable)

# What a stage prints goes to its log, and to the terminal behind the log's name. Ctrl-C is the stage's to answer.
LOGGED = "2>&1 | logged {log:q}"
setup = """set -euo pipefail
logged() {{
    trap '' INT TERM
    tee -a "$1" | while IFS= read -r line; do printf '[%s] %s\\n' "$(basename "$1" .log)" "$line"; done
}}
# resuming WORD LEFT INPUT ...: the flag WORD; --overwrite if an input is newer than what an earlier start LEFT
resuming() {{
    local word=$1 left=$2 file one
    shift 2
    while IFS= read -r file; do
        for one in "$@"; do if [ "$file" -ot "$one" ]; then word=--overwrite; fi; done
    done < <(compgen -G "$left" || true)
    echo "$word"
}}
"""
THREADS = config.get("threads", 1)
if "gpus" in config:
    # Each job takes a place on one of these GPUs that no other job has, or waits; an empty GPU before a second place
    # on another. The system frees a lock when its holder ends. Cores are shared out so that no place stays empty.
    locks, jobs_per_gpu = shlex.quote(str(Path(ROOT, ".gpu").absolute())), config.get("jobs_per_gpu", 1)
    places = [f"{gpu}.{place}" for place in range(jobs_per_gpu) for gpu in config["gpus"]]
    THREADS = max(1, (workflow.cores or 1) // len(places))
    setup += (
        f"mkdir -p {locks}; for place in {' '.join(places)}; do exec 9> {locks}/$place; "
        "export CUDA_VISIBLE_DEVICES=${{place%.*}}; flock --nonblock 9 && break; done; flock 9; "
    )
shell.prefix(setup)


localrules:
    all,
    images,
    report,


wildcard_constraints:
    robust="(adversarial_)?",
    kind="basic|adversarial",
    model="[^/]+",
    dataset="[^/]+",
    seed=r"\d\d+",
    a=r"\d\d+",
    b=r"\d\d+",
    variant=r"(_seed_\d+)?",
    epoch=r"\d+",
    match="|".join(METHODS),
    tag="|".join(["null", *METHODS, "pam_null", "pam_corr"]),


# --- what there is to make ---

NETWORK = ROOT + "/model_dicts/{kind}_models/{model}/{dataset}/checkpoint_seed_{seed}-{epoch}.pt"
MATCH = ROOT + "/model_dicts/{robust}paired_models/{model}/{dataset}/match_{match}_seeds_{a}_{b}.npy"
PAM_MATCH = MATCH.replace("{robust}", "").replace("{match}", "pam_{start}").replace("{b}", "{b}{variant}")
# By layer; of a match by L2 distance these are distances, beside which there are correlations
MEANS = ROOT + "/model_data/{robust}paired_models/{model}/{dataset}/{match}_aligned_mean_seeds_{a}_{b}.npy"
PATH = "/{model}/{dataset}/{what}_align_{tag}_seeds_{a}_{b}{variant}-{epoch}"
CURVE = ROOT + "/model_dicts/{robust}curve_models" + PATH.replace("{what}", "checkpoint") + ".pt"
EVALUATED = ROOT + "/model_data/{robust}curves" + PATH.replace("{what}", "curve") + ".npz"
PAM_CURVE = CURVE.replace("{robust}", "").replace("{tag}", "pam_{start}").replace("{epoch}", str(config["epochs_curve"]))
PLANE = ROOT + "/model_data/loss_planes_with_curve" + PATH.replace("{what}", "plane") + ".npz"
MIDPOINT = ROOT + "/model_data/paired_models" + PATH.replace("{what}", "curve") + "_t_0.5.npz"
ALIGNED_PLANE = ROOT + "/model_data/loss_planes_with_alignment/{model}/{dataset}/plane_align_{match}_seeds_{a}_{b}.npz"
LOG = ROOT + "/logs/{rule}_{model}_{dataset}_"
PATH_LOG = LOG + "{tag}_seeds_{a}_{b}{variant}-{epoch}.log"


def variant(seed):
    """What a curve's name has of its seed."""
    return "" if seed == 1 else f"_seed_{seed}"


def epochs_of_networks(robust):
    return config.get("robust_epochs_model", config["epochs_model"]) if robust else config["epochs_model"]


def epochs_of_curves(robust, model):
    """One number for all models, or one a model."""
    epochs = config.get("robust_epochs_curve", config["epochs_curve"]) if robust else config["epochs_curve"]
    return epochs[model] if isinstance(epochs, dict) else epochs


def epochs_to_run(wildcards):
    """Of a curve the epochs that are run, and which one is kept: mostly the last."""
    longer = config.get("robust_epochs_run", {}) if wildcards.robust else {}
    run = longer.get(MODELS[wildcards.model])
    return f"--epochs {run} --save_freq {wildcards.epoch}" if run else f"--epochs {wildcards.epoch}"


def files(kind, pattern, robust="", lines=False, for_tables=False):
    """The files of a pattern for all curves that the preset has under `kind`.

    lines: straight lines too, but for those whose match PAM finds. for_tables: of each pair's own seed too.
    """
    for model, alignments in config.get(kind, {}).items():
        for dataset in DATASETS:
            for tag in alignments:
                for (a, b), table_seed in zip(PAIRS, TABLE_SEEDS):
                    names = dict(robust=robust, model=model_folder(model), dataset=dataset, tag=tag, a=f"{a:02d}", b=f"{b:02d}")
                    if lines and not tag.startswith("pam_"):
                        yield pattern.format(**names, variant="", epoch=0)
                    for seed in dict.fromkeys([FIGURE_SEED] + ([table_seed] if for_tables else [])):
                        yield pattern.format(**names, variant=variant(seed), epoch=epochs_of_curves(robust, model))


def straight_lines(kind):
    """The straight lines for all alignments that the preset has under `kind`; PAM's with the seeds of tables."""
    for model, alignments in config.get(kind, {}).items():
        for dataset in DATASETS:
            for tag in alignments:
                for (a, b), table_seed in zip(PAIRS, TABLE_SEEDS):
                    names = dict(model=model_folder(model), dataset=dataset, tag=tag, a=f"{a:02d}", b=f"{b:02d}")
                    seed = table_seed if tag.startswith("pam_") else 1
                    yield EVALUATED.format(robust="", **names, variant=variant(seed), epoch=0)


def matched(kind):
    """The alignments under `kind` that are matches of their own, by model."""
    return {
        model: [tag for tag in alignments if tag != "null" and not tag.startswith("pam_")]
        for model, alignments in config.get(kind, {}).items()
    }


ALL = [
    *files("alignments", EVALUATED, lines=True, for_tables=True),
    *files("robust_alignments", EVALUATED, robust="adversarial_", lines=True, for_tables=True),
    *straight_lines("lines"),
    *files("planes", PLANE),
    *files("midpoints", MIDPOINT, lines=True),
    *(
        ALIGNED_PLANE.format(model=model_folder(model), dataset=dataset, match=match, a=f"{a:02d}", b=f"{b:02d}")
        for model, matches in matched("planes").items()
        for dataset in DATASETS
        for match in matches
        for a, b in PAIRS
    ),
]


# --- what a stage needs ---


def images_for(wildcards):
    """What a network that is still to be trained waits for; a trained one is not trained again for its images."""
    is_ready = Path(NETWORK.format(**wildcards)).exists() or is_path_of_data(DATASETS[wildcards.dataset])
    return [] if is_ready else [f"{ROOT}/images/{wildcards.dataset}.ready"]


def of_pair(pattern, wildcards, **more):
    """The file of a pattern for the pair, model and dataset of a job."""
    names = {name: wildcards[name] for name in ("model", "dataset", "a", "b")}
    return pattern.format(robust=wildcards.get("robust", ""), **names, **more)


def networks(wildcards):
    robust = wildcards.get("robust", "")
    known = {"kind": "adversarial" if robust else "basic", "epoch": epochs_of_networks(robust)}
    return [of_pair(NETWORK, wildcards, **known, seed=seed) for seed in (wildcards.a, wildcards.b)]


def match_of(wildcards, tag):
    """The match that a path begins with; none if it is unaligned. PAM's is found with a curve, and has its variant."""
    if tag.startswith("pam_"):
        return [of_pair(PAM_MATCH, wildcards, start=tag.removeprefix("pam_"), variant=wildcards.variant)]
    return [] if tag == "null" else [of_pair(MATCH, wildcards, match=tag)]


def for_evaluation(wildcards):
    of_path = {name: wildcards[name] for name in ("tag", "variant", "epoch")}
    curve = [] if wildcards.epoch == "0" else [of_pair(CURVE, wildcards, **of_path)]
    return [*networks(wildcards), *match_of(wildcards, wildcards.tag), *curve]


def dataset_flags(wildcards):
    words = ["--root", shlex.quote(ROOT), "--dataset", shlex.quote(DATASETS[wildcards.dataset])]
    return " ".join(words + (["--data_path", shlex.quote(config["data_path"])] if "data_path" in config else []))


def flags(stage):
    """A function for `params`: the flags every stage has, those of this one, and those of this one for the dataset.

    Of robust networks and curves, both may be others (robust_evaluation).
    """

    def of(wildcards):
        parts = []
        for known in (config.get("flags", {}), config["datasets"][DATASETS[wildcards.dataset]] or {}):
            is_other = twin(wildcards) and f"robust_{stage}" in known
            parts += [known.get("all"), known.get(f"robust_{stage}" if is_other else stage)]
        return " ".join([dataset_flags(wildcards), f"--model {shlex.quote(MODELS[wildcards.model])}", *filter(None, parts)])

    return of


def alignment(wildcards):
    """The flag of scripts for a path's tag (of PAM, for the match it begins with)."""
    tag = wildcards.get("tag", wildcards.get("start"))
    return "--alignment ''" if tag == "null" else f"--alignment {tag}"


def seeds(wildcards):
    """Of the pair, and of the curve."""
    pair = f"--seed_a {int(wildcards.a)} --seed_b {int(wildcards.b)}"
    curve = wildcards.get("variant", "").removeprefix("_seed_")
    return f"{pair} --seed {curve}" if curve else pair


def epochs_model(wildcards):
    return epochs_of_networks(wildcards.get("robust", ""))


def left_beside(pattern, ending):
    """A function for `params`: which files an earlier start may have left, in place of the output of this pattern."""
    end = r"\.npz$" if ending.endswith(".npz") else r"-\d+\.pt$"
    return lambda wildcards: re.sub(end, ending, pattern.format(**wildcards))


def twin(wildcards):
    """The ending of the scripts for robust networks."""
    return "_adversarial" if wildcards.get("robust") or wildcards.get("kind") == "adversarial" else ""


# --- the stages ---


rule all:
    input:
        ALL,  # so that what a preset names anew is made, although there is a report
        ROOT + "/figures/report.html",


rule images:
    # So that stages which start together do not download or decode one dataset together.
    output:
        touch(ROOT + "/images/{dataset}.ready"),
    log:
        ROOT + "/logs/images_{dataset}.log",
    params:
        dataset=dataset_flags,
    threads: THREADS
    shell:
        "{PYTHON} data/prepare.py {params.dataset} --num_workers {threads} " + LOGGED


rule network:
    input:
        images_for,
    output:
        NETWORK,
    log:
        LOG.replace("{rule}", "{kind}_network") + "seed_{seed}-{epoch}.log",
    params:
        flags=flags("network"),
        twin=twin,
        seed=lambda wildcards: int(wildcards.seed),
    wildcard_constraints:
        epoch=r"[1-9]\d*",
    threads: THREADS
    resources:
        **config.get("resources", {}).get("network", {}),
    shell:
        "{PYTHON} training/train_model{params.twin}.py {params.flags} --seed {params.seed} --epochs {wildcards.epoch}"
        " --resume " + LOGGED


rule match:
    input:
        networks,
    output:
        match=MATCH,
        means=MEANS,
    log:
        LOG.replace("{rule}", "{robust}match") + "{match}_seeds_{a}_{b}.log",
    params:
        flags=flags("match"),
        seeds=seeds,
        epochs=epochs_model,
        script=lambda wildcards: "align_models_w2" if wildcards.match.startswith("w2_") else "align_models",
        method=lambda wildcards: METHODS[wildcards.match],
        robust=lambda wildcards: "--adversarial" if wildcards.robust else "",
    threads: THREADS
    resources:
        **config.get("resources", {}).get("match", {}),
    shell:
        "{PYTHON} alignment/{params.script}.py {params.flags} {params.seeds} --epochs {params.epochs} {params.method}"
        " {params.robust} " + LOGGED


rule curve:
    input:
        networks,
        lambda wildcards: match_of(wildcards, wildcards.tag),
    output:
        CURVE,
    log:
        PATH_LOG.replace("{rule}", "{robust}curve"),
    wildcard_constraints:
        tag="|".join(["null", *METHODS]),
        epoch=r"[1-9]\d*",
    params:
        left=left_beside(CURVE, "-*.pt"),
        flags=flags("curve"),
        seeds=seeds,
        epochs=epochs_model,
        run=epochs_to_run,
        alignment=alignment,
        twin=twin,
    threads: THREADS
    resources:
        **config.get("resources", {}).get("curve", {}),
    shell:
        "{PYTHON} training/train_curve{params.twin}.py {params.flags} {params.seeds} --epochs_model {params.epochs}"
        " {params.run} {params.alignment} $(resuming --resume {params.left:q} {input:q}) " + LOGGED


rule pam:
    input:
        networks,
        lambda wildcards: match_of(wildcards, wildcards.start),
    output:
        curve=PAM_CURVE,
        match=PAM_MATCH,
    log:
        LOG.replace("{rule}", "pam") + "{start}_seeds_{a}_{b}{variant}.log",
    wildcard_constraints:
        start="null|corr",
    params:
        left=left_beside(PAM_CURVE, "_perm1-*.pt"),
        flags=flags("pam"),
        seeds=seeds,
        epochs=f"--epochs_model {config['epochs_model']} --inner_iters_phi {config['epochs_curve']}",
        alignment=alignment,
    threads: THREADS
    resources:
        **config.get("resources", {}).get("pam", {}),
    shell:
        "{PYTHON} training/train_curve_pam.py {params.flags} {params.seeds} {params.epochs} {params.alignment}"
        " $(resuming --resume {params.left:q} {input:q}) " + LOGGED


rule evaluation:
    input:
        for_evaluation,
    output:
        EVALUATED,
    log:
        PATH_LOG.replace("{rule}", "{robust}evaluation"),
    params:
        left=left_beside(EVALUATED, ".partial.npz"),
        flags=flags("evaluation"),
        seeds=seeds,
        epochs=epochs_model,
        alignment=alignment,
        name=lambda wildcards: "eval_adversarial_curve" if wildcards.robust else "eval_curve",
    threads: THREADS
    resources:
        **config.get("resources", {}).get("evaluation", {}),
    shell:
        "{PYTHON} evaluation/{params.name}.py {params.flags} {params.seeds} --epochs_model {params.epochs}"
        " --epochs_curve {wildcards.epoch} {params.alignment} $(resuming '' {params.left:q} {input:q}) " + LOGGED


rule plane:
    input:
        for_evaluation,
    output:
        PLANE,
    log:
        PATH_LOG.replace("{rule}", "plane"),
    params:
        left=left_beside(PLANE, ".partial.npz"),
        flags=flags("plane"),
        seeds=seeds,
        epochs=epochs_model,
        alignment=alignment,
    threads: THREADS
    resources:
        **config.get("resources", {}).get("plane", {}),
    shell:
        "{PYTHON} evaluation/eval_plane_with_curve.py {params.flags} {params.seeds} --epochs_model {params.epochs}"
        " --epochs_curve {wildcards.epoch} {params.alignment} $(resuming '' {params.left:q} {input:q}) " + LOGGED


rule aligned_plane:
    input:
        networks,
        lambda wildcards: match_of(wildcards, wildcards.match),
    output:
        ALIGNED_PLANE,
    log:
        LOG.replace("{rule}", "aligned_plane") + "{match}_seeds_{a}_{b}.log",
    params:
        left=left_beside(ALIGNED_PLANE, ".partial.npz"),
        flags=flags("plane"),
        seeds=seeds,
        epochs=epochs_model,
    threads: THREADS
    resources:
        **config.get("resources", {}).get("plane", {}),
    shell:
        "{PYTHON} evaluation/eval_plane_with_alignment.py {params.flags} {params.seeds} --epochs_model {params.epochs}"
        " --alignment {wildcards.match} $(resuming '' {params.left:q} {input:q}) " + LOGGED


rule midpoint:
    input:
        for_evaluation,
    output:
        MIDPOINT,
    log:
        PATH_LOG.replace("{rule}", "midpoint"),
    params:
        left=left_beside(MIDPOINT, ".partial.npz"),
        flags=flags("midpoint"),
        seeds=seeds,
        epochs=epochs_model,
        alignment=alignment,
    threads: THREADS
    resources:
        **config.get("resources", {}).get("midpoint", {}),
    shell:
        "{PYTHON} alignment/align_along_curve.py {params.flags} {params.seeds} --epochs_model {params.epochs}"
        " --epochs_curve {wildcards.epoch} {params.alignment} $(resuming '' {params.left:q} {input:q}) " + LOGGED


rule report:
    input:
        ALL,
    output:
        ROOT + "/figures/report.html",
    log:
        ROOT + "/logs/report.log",
    run:
        logged = f"2>&1 | logged {shlex.quote(str(log))}"
        root = f"--root {shlex.quote(ROOT)}"
        ab = "--seed_a {} --seed_b {}".format(*(" ".join(map(str, seeds)) for seeds in zip(*PAIRS)))
        figures = f"{root} {ab}" + ("" if FIGURE_SEED == 1 else f" --curve_seed {FIGURE_SEED}")

        def draw(script, kind, robust="", of=figures, names=lambda tags: tags, flags=""):
            """A figure of each model and dataset, of those alignments of the preset's kind that `names` leaves."""
            for model, tags in config.get(kind, {}).items():
                words = " ".join("''" if tag == "null" else tag for tag in names(tags))
                epochs = epochs_of_curves(robust, model)
                for dataset in config["datasets"] if words else ():
                    subject = f"--model {shlex.quote(model)} --dataset {shlex.quote(dataset)} --alignment {words}"
                    shell(f"{{PYTHON}} visualization/{script}.py {of} {subject} {flags.format(epochs=epochs)} {logged}")

        def not_pam(tags):
            return [tag for tag in tags if not tag.startswith("pam_")]

        def matches(tags):
            return [tag for tag in not_pam(tags) if tag != "null"]

        for robust, kind in (("", "alignments"), ("robust", "robust_alignments")):
            script = "viz_adversarial_curve" if robust else "viz_curve"
            draw(script, kind, robust, flags="--epochs {epochs}")
            draw(script, kind, robust, of=f"{root} {ab}", names=not_pam, flags="--epochs 0 --name lines")
            layers = "layerwise_mean_correlation/viz_align_models"
            draw(layers, kind, robust, of=f"{root} {ab}", names=matches, flags="--adversarial" if robust else "")
        draw("viz_curve_on_plane", "planes", flags="--epochs {epochs}")
        draw("viz_plane", "planes", of=f"{root} {ab}", names=matches)
        draw("layerwise_mean_correlation/viz_align_along_curves", "midpoints", flags="--epochs {epochs}")
        told = "" if set(TABLE_SEEDS) == {1} else f"{ab} --curve_seed {' '.join(map(str, TABLE_SEEDS))}"
        if config["alignments"] or config.get("lines"):  # and not robust networks alone
            shell("{PYTHON} evaluation/make_tables.py {root} {told} {logged}")
            shell("{PYTHON} evaluation/compare_alignments.py {root} {told} {logged}")
        if "robust_alignments" in config:
            shell("{PYTHON} evaluation/make_tables.py {root} {told} --adversarial {logged}")
        shell("{PYTHON} evaluation/make_report.py {root} {logged}")
