"""Learn a curve and the permutation of network B together, by proximal alternating minimization (PAM).

python training/train_curve_pam.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --epochs_model 250 --alignment corr
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

import models
from utils import distributed, pam
from utils.curves import Curve, network_digest
from utils.devices import memory_format
from utils.errors import FileError, UserError
from utils.matching import correlations_before_and_after
from utils.permutations import compose, permute
from utils.stages import flags, hints, process
from utils.stages.files import expect, expect_writable, hold, save_array
from utils.stages.flags import NEW, epochs_or_none, positive_int
from utils.stages.layout import EPOCHS, kept_epochs, rolling, tag
from utils.stages.loading import load_alignment, load_pair, spec_of
from utils.stages.machine import cost
from utils.stages.matches import save_match
from utils.stages.records import behind, load_record, other_inputs
from utils.stages.runs import Run, save_line
from utils.training import fit, step_rates


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, "sgd pair alignment")
    # The flags of train_curve.py, at the values for which PAM is defined
    parser.networks("--curve", ("Bezier",), "Bezier", "PAM's curve is the quadratic Bézier curve")
    parser.networks("--num_bends", int, 3, "with its one turning point", choices=(3,))
    parser.networks("--fix_start", action="store_true", default=True, help="A is fixed always")
    parser.networks("--fix_end", action="store_true", default=True, help="B is fixed but for its permutation always")
    parser.add_names("curve", "--curve_type")
    parser.networks("--init_linear_off", bool, False, argparse.SUPPRESS, outcome=NEW)
    outer_help = "outer iterations (permutation phase + curve phase)"
    parser.optimization("--outer_iters", positive_int, 1, outer_help, outcome=True)
    parser.optimization("--inner_iters_perm", positive_int, 20, "epochs of the permutation phase", outcome=True)
    # A later phase depends on where an earlier one ended.
    phi_help = "epochs of the curve phase"
    parser.optimization(
        "--inner_iters_phi", positive_int, EPOCHS, phi_help, outcome=lambda args: args.outer_iters > 1
    )
    val_freq_help = "test every so many epochs; a second number is for the curve phase (default: none)"
    parser.optimization("--val_freq", epochs_or_none, None, val_freq_help, nargs="+")
    args = flags.parse(parser, argv)
    args.val_freq = args.val_freq or [None]
    if len(args.val_freq) > 2:
        parser.error("--val_freq takes one number or two")
    if isinstance(args.resume, Path):
        parser.error("--resume takes no file here: PAM goes on from the newest of its own phases' checkpoints")
    return args


def main(args):
    layout, seeds, variant, start_name = args.layout, args.seeds, args.variant, tag(args.alignment)
    expect(*behind(layout, seeds, args.epochs_model, args.alignment, 0, variant).values())
    expect_writable(*(layout.folder(kind) for kind in ("matches", "correlations", "curves", "curve_history")))
    data = args.load()
    networks = load_pair(args.build, layout, data, seeds, args.epochs_model)
    state_a, state_b = (network.state_dict() for network in networks)
    if start_name == "null":
        spec = spec_of(networks[1], data.example)
        permutations = spec.identity()
    else:
        spec, permutations = load_alignment(layout.match(start_name, *seeds, variant), networks, data.example)
        if spec.kinds:
            raise UserError(f"{start_name} rotates, and PAM learns permutations alone: begin with another match")
    torch.manual_seed(args.seed)
    curve = Curve(
        args.build(data.num_classes, data.channels).to(args.device, memory_format=memory_format(args.device))
    )
    if args.compile:
        curve.compile()
    curve.set_point(0, state_a)

    name = f"pam_{start_name}"
    stem, history_file = layout.curve_stem(name, *seeds, variant), layout.curve_history(name, *seeds, variant)
    iterations = [f"{name}_iter{i}" for i in range(1, args.outer_iters)]
    matches = [layout.match(iteration, *seeds, variant) for iteration in (*iterations, name)]
    means = [layout.correlation(name, which, *seeds, variant) for which in ("unaligned", "aligned")]
    distributed.from_main(lambda: hold(stem))  # until its last phase, which has this name, is done
    is_there = distributed.from_main(lambda: found(stem, history_file, matches, means, args.overwrite))
    record = args.record.of(images=data.digest)

    def run(suffix, epochs, after=None):
        """The files of one phase; they carry the curve's own name, and a suffix for all but the last."""
        return Run(
            stem.with_name(stem.name + suffix),
            record.of(ends=curve.fixed_ends()),
            epochs,
            args.save_freq,
            history_file.with_stem(history_file.stem + suffix),
            resume=args.resume,
            after=after,
            log=args.log_dir,
        )

    # Over several outer iterations the schedules go on, and so does the momentum of φ (P has none).
    lr = args.lr if args.optimizer == "sgd" else flags.LEARNING_RATES["sgd"]  # of P, whose steps are plain
    perm_rates = step_rates(len(matches) * args.inner_iters_perm, lr / 2, pam.PERMUTATION_DROP, args.lr_decay)
    phi_rates = step_rates(len(matches) * args.inner_iters_phi, args.lr, args.lr_drop, args.lr_decay)
    penalty, decay = (0.0, args.wd) if args.optimizer == "adamw" else (args.wd, 0.0)  # as in train_curve.py
    phi, previous, taken = torch.zeros_like(curve.row(0)), None, []
    if args.init_linear_off:
        phi = off_the_line(
            curve, permute(state_b, spec, permutations), args.build(data.num_classes, data.channels).state_dict()
        )
    for i, match in enumerate(matches):
        start = permute(state_b, spec, permutations)
        put_end(curve, state_a, start, spec)
        phase = run(f"_perm{i + 1}", args.inner_iters_perm)
        if is_there[i]:
            if not phase.checkpoint.exists():
                raise FileError(match, "is there, but not the run that found it", "replace")
            distributed.from_main(phase.open)  # refuses one of other settings
            _, permutations = load_alignment(match, networks, spec=spec)
        else:
            task = pam.PermutationTask(curve, spec, start, phi, data.test, data.task)
            rates = perm_rates[i * args.inner_iters_perm :][: args.inner_iters_perm]
            if args.compile:
                task.soft.compile()
            learn = partial(
                pam.learn_permutations,
                task,
                data.train,
                phase,
                rates=rates,
                batch_size=args.batch_size,
                seed=args.seed,
                precision=args.precision,
                val_freq=args.val_freq[0],
            )
            order, took = with_cost(learn, phase, args.device)
            taken += took
            permutations = compose(spec, permutations, order)
            made_for = list(map(network_digest, networks))
            save_match(match, spec, permutations, made_for, replaces=means, record=record.at(match).stored())
        if match is matches[-1]:
            made_from = record.of(behind(layout, seeds, args.epochs_model, name, 0, variant))
            made_from = replace(made_from, cost=in_all(taken, matches))
            save_correlations(means, networks, spec, permutations, data.test, made_from)

        aligned = permute(state_b, spec, permutations)
        put_end(curve, state_a, aligned, spec)
        phase = run("" if match is matches[-1] else f"_phi{i + 1}", args.inner_iters_phi, previous)
        task = pam.TurningPointTask(curve, phi, penalty, data.test, data.task)
        rates = phi_rates[i * args.inner_iters_phi :][: args.inner_iters_phi]
        history = fit(
            task,
            data.train,
            phase,
            rates=rates,
            batch_size=args.batch_size,
            momentum=args.momentum,
            weight_decay=decay,
            optimizer=args.optimizer,
            seed=args.seed,
            precision=args.precision,
            val_freq=args.val_freq[-1],
        )
        phi = (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()
        previous = phase.checkpoint

    linear = layout.curve(name, *seeds, 0, variant)
    save_line(linear, state_a, aligned, record)
    path = {"seed_a": args.seed_a, "seed_b": args.seed_b, "epochs_model": args.epochs_model, "alignment": name}
    path |= {"epochs_curve": args.inner_iters_phi, **variant.differing}
    next_command = hints.command(args.here, "evaluation/eval_curve.py", path)
    hints.closing_words(args.here, [matches[-1], *means, linear, *phase.files(history)], next_command)


def put_end(curve, state_a, state, spec):
    curve.base.load_state_dict(state)  # so that what checkpoints hold does not depend on where a run was resumed
    curve.connect({0: state_a, 2: state}, apart=spec.axes.keys())


def off_the_line(curve, end, turning_point):
    """The φ with which the curve to `end` begins at a turning point that is not between its ends."""
    curve.set_point(2, end)
    curve.set_point(1, turning_point)
    return (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()


def with_cost(learn, phase, device):
    """The permutations that a phase learns, and what that took, in a list: nothing if an earlier start did a part."""
    is_new = not rolling(phase.stem).exists() and not kept_epochs(phase.stem)
    with cost(device) as took:
        order = learn()
    return order, [took] if is_new else []


def in_all(taken, phases):
    """What all phases took together; nothing if that of some is not known."""
    if len(taken) < len(phases):
        return {}
    memory = [phase["memory"] for phase in taken if "memory" in phase]
    return {"seconds": sum(phase["seconds"] for phase in taken)} | ({"memory": max(memory)} if memory else {})


def save_correlations(files, networks, spec, permutations, images, record):
    """How well matched channels correlate on these images, layer by layer, before and after; if that is not there."""
    if distributed.from_main(lambda: all(is_current(file, record) for file in files)):
        return
    digests = list(map(network_digest, networks))
    for network in networks:
        network.to(images.device, memory_format=memory_format(images.device))
    measured = correlations_before_and_after(*networks, spec, permutations, images.batches(512))
    for file, values in zip(files, measured.values(), strict=True):
        save_array(file, values, {"networks": digests, "record": record.at(file).stored()})


def is_current(file, record):
    """Whether correlations are there, measured with these networks and this match."""
    before = load_record(file)
    return before.inputs.keys() >= {"a", "b", "match"} and not other_inputs(before, record.inputs)


def found(stem, history, matches, means, overwrite):
    """Which matches an earlier run left; to overwrite, all is removed first."""
    if overwrite:
        left = [history, *(path for kind in ("perm", "phi") for path in of_phases(history, kind))]
        left += [*stem.parent.glob(f"{stem.name}-*.pt"), *of_phases(stem, "perm"), *of_phases(stem, "phi")]
        for path in [*left, *means, *matches, *(match.with_suffix(".json") for match in matches)]:
            path.unlink(missing_ok=True)
    return [match.exists() for match in matches]


def of_phases(path, kind):
    """The files of all phases of a kind, whose names are that of `path`, without a suffix, and the kind's."""
    name = path.name.removesuffix(".npz")
    return sorted(path.parent.glob(f"{name}_{kind}[0-9]*"))


if __name__ == "__main__":
    process.run(parse_args, main)
