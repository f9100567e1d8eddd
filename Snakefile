# Many experiments: every stage for each model, dataset and pair of networks that a preset names.
#
#     snakemake --configfile presets/cifar10-cpu.yaml --cores all
#
# The stages and their files are those of the scripts. Snakemake runs what is missing, in order and side by side, on this
# machine or on a cluster; a stage that was stopped goes on from its newest checkpoint when snakemake is called again.

import shlex
import sys
from pathlib import Path

ROOT = config["root"]
PAIRS = config["pairs"]
EPOCHS, CURVE_EPOCHS = config["epochs_model"], config["epochs_curve"]
PYTHON = shlex.quote(sys.executable)


wildcard_constraints:
    robust="(adversarial_)?",
    kind="basic|adversarial",
    model="[A-Za-z0-9]+",
    dataset="[^/]+",
    seed=r"\d\d+",
    a=r"\d\d+",
    b=r"\d\d+",
    epoch=r"\d+",


# --- what there is to make ---

NETWORK = ROOT + "/model_dicts/{kind}_models/{model}/{dataset}/checkpoint_seed_{seed}-" + f"{EPOCHS}.pt"
MATCH = ROOT + "/model_dicts/{robust}paired_models/{model}/{dataset}/match_{match}_seeds_{a}_{b}.npy"
CURVE = ROOT + "/model_dicts/{robust}curve_models/{model}/{dataset}/checkpoint_align_{tag}_seeds_{a}_{b}-" + f"{CURVE_EPOCHS}.pt"
EVALUATED = ROOT + "/model_data/{robust}curves/{model}/{dataset}/curve_align_{tag}_seeds_{a}_{b}-{epoch}.npz"


def paths(kind):
    """(model, dataset, alignment, epochs) of every path: learned curves, and lines where a match is not PAM's."""
    for model, alignments in config[kind].items():
        for dataset in config["datasets"]:
            for tag in alignments:
                for epoch in [CURVE_EPOCHS] if tag.startswith("pam_") else [0, CURVE_EPOCHS]:
                    yield model, dataset, tag, epoch


def evaluated(kind, robust):
    return [
        EVALUATED.format(robust=robust, model=model, dataset=dataset, tag=tag, a=f"{a:02d}", b=f"{b:02d}", epoch=epoch)
        for model, dataset, tag, epoch in paths(kind)
        for a, b in PAIRS
    ]


ALL = evaluated("alignments", "") + (evaluated("robust_alignments", "adversarial_") if "robust_alignments" in config else [])


# --- what a stage needs ---


def images_for(wildcards):
    """What a network that is still to be trained waits for; a trained one is not trained again for its images."""
    trained = Path(NETWORK.format(**wildcards)).exists()
    return [] if trained else [f"{ROOT}/images/{wildcards.dataset}.ready"]


def of_pair(pattern, wildcards, **more):
    """The file of a pattern for the pair, model and dataset of a job."""
    names = {name: wildcards[name] for name in ("model", "dataset", "a", "b")}
    return pattern.format(robust=wildcards.get("robust", ""), **names, **more)


def networks(wildcards):
    kind = "adversarial" if wildcards.get("robust") else "basic"
    return [of_pair(NETWORK, wildcards, kind=kind, seed=seed) for seed in (wildcards.a, wildcards.b)]


def match_of(wildcards, tag):
    """The match that a path begins with; none if it is unaligned."""
    return [] if tag == "null" else [of_pair(MATCH, wildcards, match=tag)]


def for_evaluation(wildcards):
    curve = [] if wildcards.epoch == "0" else [of_pair(CURVE, wildcards, tag=wildcards.tag)]
    return [*networks(wildcards), *match_of(wildcards, wildcards.tag), *curve]


def dataset_flags(wildcards):
    words = ["--root", shlex.quote(ROOT), "--dataset", shlex.quote(wildcards.dataset)]
    return " ".join(words + (["--data_path", shlex.quote(config["data_path"])] if "data_path" in config else []))


def flags(stage):
    """A function for `params`: the flags every stage has, those of this one, and those of this one for the dataset."""

    def of(wildcards):
        dataset = config["datasets"][wildcards.dataset] or {}
        known = config.get("flags", {})
        parts = (known.get("all"), known.get(stage), dataset.get("all"), dataset.get(stage))
        return " ".join([dataset_flags(wildcards), f"--model {wildcards.model}", *filter(None, parts)])

    return of


def alignment(wildcards):
    """The flag of scripts for a path's tag (of PAM, for the match it begins with)."""
    tag = wildcards.get("tag", wildcards.get("start"))
    return "--alignment ''" if tag == "null" else f"--alignment {tag}"


def seeds(wildcards):
    return f"--seed_a {int(wildcards.a)} --seed_b {int(wildcards.b)}"


def twin(wildcards):
    """The ending of the scripts for robust networks."""
    return "_adversarial" if wildcards.get("robust") or wildcards.get("kind") == "adversarial" else ""


# --- the stages ---


rule all:
    input:
        ROOT + "/figures/report.html",


rule images:
    # So that stages which start together do not download or decode one dataset together.
    output:
        touch(ROOT + "/images/{dataset}.ready"),
    params:
        dataset=dataset_flags,
    threads: config.get("threads", 1)
    shell:
        "{PYTHON} data/prepare.py {params.dataset} --num_workers {threads}"


rule network:
    input:
        images_for,
    output:
        NETWORK,
    params:
        flags=flags("network"),
        twin=twin,
        seed=lambda wildcards: int(wildcards.seed),
    threads: config.get("threads", 1)
    resources:
        **config.get("resources", {}).get("network", {}),
    shell:
        "{PYTHON} training/train_model{params.twin}.py {params.flags} --seed {params.seed} --epochs {EPOCHS} --resume"


rule match:
    input:
        networks,
    output:
        MATCH,
    wildcard_constraints:
        match="corr",
    params:
        flags=flags("match"),
        seeds=seeds,
        robust=lambda wildcards: "--adversarial" if wildcards.robust else "",
    threads: config.get("threads", 1)
    resources:
        **config.get("resources", {}).get("match", {}),
    shell:
        "{PYTHON} alignment/align_models.py {params.flags} {params.seeds} --epochs {EPOCHS} {params.robust}"


rule curve:
    input:
        networks,
        lambda wildcards: match_of(wildcards, wildcards.tag),
    output:
        CURVE,
    wildcard_constraints:
        tag="null|corr",
    params:
        flags=flags("curve"),
        seeds=seeds,
        alignment=alignment,
        twin=twin,
    threads: config.get("threads", 1)
    resources:
        **config.get("resources", {}).get("curve", {}),
    shell:
        "{PYTHON} training/train_curve{params.twin}.py {params.flags} {params.seeds} --epochs_model {EPOCHS}"
        " --epochs {CURVE_EPOCHS} {params.alignment} --resume"


rule pam:
    input:
        networks,
        lambda wildcards: match_of(wildcards, wildcards.start),
    output:
        curve=CURVE.replace("{tag}", "pam_{start}").replace("{robust}", ""),
        match=MATCH.replace("{match}", "pam_{start}").replace("{robust}", ""),
    wildcard_constraints:
        start="null|corr",
    params:
        flags=flags("pam"),
        seeds=seeds,
        alignment=alignment,
    threads: config.get("threads", 1)
    resources:
        **config.get("resources", {}).get("pam", {}),
    shell:
        "{PYTHON} training/train_curve_pam.py {params.flags} {params.seeds} --epochs_model {EPOCHS}"
        " --inner_iters_phi {CURVE_EPOCHS} {params.alignment} --resume"


rule evaluation:
    input:
        for_evaluation,
    output:
        EVALUATED,
    wildcard_constraints:
        tag="null|corr|pam_null|pam_corr",
    params:
        flags=flags("evaluation"),
        seeds=seeds,
        alignment=alignment,
        name=lambda wildcards: "eval_adversarial_curve" if wildcards.robust else "eval_curve",
    threads: config.get("threads", 1)
    resources:
        **config.get("resources", {}).get("evaluation", {}),
    shell:
        "{PYTHON} evaluation/{params.name}.py {params.flags} {params.seeds} --epochs_model {EPOCHS}"
        " --epochs_curve {wildcards.epoch} {params.alignment}"


rule report:
    input:
        ALL,
    output:
        ROOT + "/figures/report.html",
    run:
        root = f"--root {shlex.quote(ROOT)}"
        ab = "--seed_a {} --seed_b {}".format(*(" ".join(map(str, seeds)) for seeds in zip(*PAIRS)))
        for kind, script in (("alignments", "viz_curve"), ("robust_alignments", "viz_adversarial_curve")):
            for model, alignments in config.get(kind, {}).items():
                names = {tag: "''" if tag == "null" else tag for tag in alignments}
                learned = " ".join(names.values())
                lines = " ".join(name for tag, name in names.items() if not tag.startswith("pam_"))
                for dataset in config["datasets"]:
                    of = f"{root} --model {model} --dataset {shlex.quote(dataset)} {ab}"
                    shell("{PYTHON} visualization/{script}.py {of} --alignment {learned} --epochs {CURVE_EPOCHS}")
                    shell("{PYTHON} visualization/{script}.py {of} --alignment {lines} --epochs 0 --name lines")
        shell("{PYTHON} evaluation/make_tables.py {root}")
        if "robust_alignments" in config:
            shell("{PYTHON} evaluation/make_tables.py {root} --adversarial")
        shell("{PYTHON} evaluation/make_report.py {root}")
