"""Write one point of a curve or a straight line as a network's checkpoint, with statistics of its own.

python evaluation/export_point.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 0 --out FILE
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

import models
from utils import distributed
from utils.errors import UserError
from utils.measuring import evaluate
from utils.repairing import renormalizer
from utils.stages import flags, hints, process
from utils.stages.evaluation import NamedPath
from utils.stages.files import hold, save_checkpoint
from utils.stages.parser import add_folder_flags, fraction


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, batch_size=512)
    flags.add_path_flags(parser)
    add_folder_flags(parser, "evaluation/export_point.py")
    flags.add_evaluation_flags(parser)
    parser.networks("--t", type=fraction, default=0.5, help="the point, from 0 at A to 1 at B", outcome=True)
    parser.files("--out", type=Path, required=True, metavar="FILE", help="the checkpoint that is written")
    return flags.parse(parser, argv)


def main(args):
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} is there already; name another file, or add --overwrite", exit_code=2)
    data, curve, record = NamedPath(args).load(args.out)
    distributed.from_main(lambda: hold(args.out))
    images, how = data.for_batch_norm(args.bn_images), {"batch_size": args.batch_size, "precision": args.precision}
    renormalize = renormalizer(curve, images, repaired=args.repair, **how)
    network = curve.place(args.t)
    renormalize(network, args.t)
    loss, accuracy = evaluate(network, data.test, **how)
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in network.state_dict().items()}
    save_checkpoint(args.out, {"model_state": state, "record": record.stored()})
    print(f"At t = {args.t:g}: loss {loss:.4f}, accuracy {accuracy:.1f} % on test images")
    hints.closing_words(args, [args.out])


if __name__ == "__main__":
    process.run(parse_args, main)
