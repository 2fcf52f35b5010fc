"""Average the weights of runs that continue one another: one network, as fast as each of them.

    python -m models.average runs/e/best.safetensors runs/h/best.safetensors --out averaged.safetensors
    python -m models.average a.safetensors b.safetensors --weights 1 3 --out averaged.safetensors

Fine-tuning on other data gains there and loses elsewhere; the average of the weights before and after keeps most of both, and does better on
pictures unlike either's (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Weights that were trained apart from each other
from the start have no meaningful average.
"""
import math
import sys
from pathlib import Path

import torch

from cli import Parser

from .checkpoint import CheckpointError, load_model, save_model


@torch.no_grad()
def average(paths, weights=None):
    """The network whose parameters are the weighted mean of those of the files.

    Args:
        paths: files of `save_model`, all of one network with one configuration.
        weights: as many positive numbers; None: equal.

    Raises:
        CheckpointError (a ValueError): a file cannot be read, or is of another network or configuration than the first.
        ValueError: weights that do not fit.
    """
    weights = [1.0] * len(paths) if weights is None else weights
    if len(weights) != len(paths) or not paths or not all(0 < w < math.inf for w in weights):
        raise ValueError(f'weights are {weights} for {len(paths)} files, accepted: a positive number for each')
    models = [load_model(path) for path in paths]
    first = models[0]
    for path, other in zip(paths, models):
        if type(other) is not type(first) or other.config.to_dict() != first.config.to_dict():
            raise CheckpointError(f'{path}: not the same network and configuration as {paths[0]}')
    states = [m.state_dict() for m in models]
    first.load_state_dict({k: sum(w * s[k] for w, s in zip(weights, states)) / sum(weights) for k in states[0]})
    first.provenance = {}  # it was the first file's
    return first


def main(argv=None):
    p = Parser(prog='models.average', description=__doc__.splitlines()[0])
    p.add_argument('checkpoints', nargs='+', type=Path)
    p.add_argument('--weights', nargs='+', type=float, help='of each; default: equal')
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args(argv)
    try:
        model = average(args.checkpoints, args.weights)
        save_model(model, args.out, {'average of': [str(c) for c in args.checkpoints], 'weights': args.weights})
    except (CheckpointError, ValueError, OSError) as error:
        print(f'models.average: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
