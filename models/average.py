"""Average the weights of runs that continue one another: one network, as fast as each of them.

    python -m models.average runs/e/best.safetensors runs/h/best.safetensors --out averaged.safetensors
    python -m models.average a.safetensors b.safetensors --weights 1 3 --out averaged.safetensors
    python -m models.average a.safetensors --level 0.7 --out cautious.safetensors

Fine-tuning on other data gains there and loses elsewhere; the average of the weights before and after keeps most of both, and does better on
pictures unlike either's (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Weights that were trained apart from each other
from the start have no meaningful average.

`--level` scales the one number per picture that a P-IEANet adds to auto-exposure's gain, its level, for every picture (the head's map stays, so 0 is
not quite auto-exposure). The whole step is the best guess for pictures like the training pictures; on brackets of cameras that it had not seen
about half of it was better (benchmarks/results/runs.csv, "brackets unseen"). It multiplies with what the files have been given before.
"""
import math
import sys
from pathlib import Path

import torch

from cli import Parser

from .checkpoint import CheckpointError, load_model, save_model
from .p_ieanet import PIEANet


def shape_of(model):
    """The configuration, without what only training looks at."""
    return {k: v for k, v in model.config.to_dict().items() if k != 'dropout'}


@torch.no_grad()
def average(paths, weights=None, level=1.0):
    """The network whose parameters are the weighted mean of those of the files.

    Args:
        paths: files of `save_model`, all of one network with one configuration but for the dropout, which is the first file's.
        weights: as many positive numbers; None: equal.
        level: factor, 0 to 10, of the picture's own gain (or offset) that a P-IEANet adds to its starting point.

    Raises:
        CheckpointError (a ValueError): a file cannot be read, or is of another network or configuration than the first.
        ValueError: weights that do not fit, a level out of range, or one for a network that has none.
    """
    weights = [1.0] * len(paths) if weights is None else weights
    if len(weights) != len(paths) or not paths or not all(0 < w < math.inf for w in weights):
        raise ValueError(f'weights are {weights} for {len(paths)} files, accepted: a positive number for each')
    if not 0 <= level <= 10:
        raise ValueError(f'level is {level}, accepted: 0 to 10')
    models = [load_model(path) for path in paths]
    first = models[0]
    for path, other in zip(paths, models):
        if type(other) is not type(first) or shape_of(other) != shape_of(first):
            raise CheckpointError(f'{path}: not the same network and configuration as {paths[0]}')
    states = [m.state_dict() for m in models]
    first.load_state_dict({k: sum(w * s[k] for w, s in zip(weights, states)) / sum(weights) for k in states[0]})
    if level != 1:
        if not isinstance(first, PIEANet):
            raise ValueError(f'{paths[0]}: only a P-IEANet has a level to scale')
        for parameter in first.level[-1].parameters():
            parameter *= level
    first.provenance = {}  # it was the first file's
    return first


def main(argv=None):
    p = Parser(prog='models.average', description=__doc__.splitlines()[0])
    p.add_argument('checkpoints', nargs='+', type=Path)
    p.add_argument('--weights', nargs='+', type=float, help='of each; default: equal')
    p.add_argument('--level', type=float, default=1.0, help="factor of the picture's own gain beyond its starting point, auto-exposure (default: 1)")
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args(argv)
    try:
        model = average(args.checkpoints, args.weights, args.level)
        save_model(model, args.out, {'average of': [str(c) for c in args.checkpoints], 'weights': args.weights, 'level': args.level})
    except (CheckpointError, ValueError, OSError) as error:
        print(f'models.average: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
