"""At which size should the network see a picture? MAE and processor time by the predictor's working size (make_heatmap.py --size).

    python benchmarks/working_size.py --data sets/stacks --csv sets/stacks/val.csv --data sets/hdri --csv sets/hdri/val.csv

Every picture goes through the predictor at every size, one after the other, so that the times are side by side: processor time of one
thread, from the 8-bit picture to the full-size map. The map is compared with the label where that counts. Validation sets, for a size is
chosen by it. Written to benchmarks/results/working_size.csv.
"""
import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli import output_file  # noqa: E402
from datasets.iea40k import IEA40K  # noqa: E402
from exposure import Predictor  # noqa: E402
from metrics.environment import commit, processor  # noqa: E402
from metrics.pixel import mae  # noqa: E402
from metrics.report import csv_text  # noqa: E402
from models.checkpoint import atomic_write  # noqa: E402

SIDE = 256  # of the labels, and so of the pictures here


def measure(dataset, predictors, limit):
    """{size: (MAE, milliseconds a picture)} over ``limit`` evenly spread pictures, and their number."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, limit or len(dataset)).astype(int)).tolist()
    errors, seconds = {size: [] for size in predictors}, dict.fromkeys(predictors, 0.0)
    for i in chosen:
        sample = dataset[i]
        picture = (sample['image'] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        for size, predictor in predictors.items():
            start = time.process_time()
            residual = predictor.predict(picture).residual
            seconds[size] += time.process_time() - start
            errors[size].append(mae(residual, sample['residual'][0], sample['mask'][0]))
    return {size: (float(np.mean(errors[size])), 1000 * seconds[size] / len(chosen)) for size in predictors}, len(chosen)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', type=Path, action='append', required=True, help='folder of a set; give it once for every --csv')
    p.add_argument('--csv', type=Path, action='append', required=True, help='its validation split')
    p.add_argument('--sizes', type=int, nargs='+', default=[96, 128, 160, 192, 224, 256, 320])
    p.add_argument('--limit', type=int, default=120, help='pictures of each set, 0: all')
    p.add_argument('--checkpoint', type=Path)
    p.add_argument('--out', type=output_file, default=ROOT / 'benchmarks/results/working_size.csv')
    args = p.parse_args(argv)
    if len(args.data) != len(args.csv):
        p.error('--data and --csv go together')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        predictors = {size: Predictor(args.checkpoint, device='cpu', size=size) for size in args.sizes}
        sets = {data.resolve().name: IEA40K(data, csv, SIDE) for data, csv in zip(args.data, args.csv)}
        if len(sets) < len(args.csv):
            raise ValueError(f'{len(args.csv)} sets in folders with {len(sets)} names, accepted: a name for each')
        found = {name: measure(dataset, predictors, args.limit) for name, dataset in sets.items()}
    except (ValueError, OSError) as error:
        print(f'working_size.py: {error}', file=sys.stderr)
        return 2
    rows = []
    for size in args.sizes:
        row = {'size': size, **{f'mae_{name}': f'{result[size][0]:.4f}' for name, (result, _) in found.items()}}
        row['mae_mean'] = f'{np.mean([result[size][0] for result, _ in found.values()]):.4f}'
        row['ms'] = f'{np.mean([result[size][1] for result, _ in found.values()]):.1f}'
        row.update(pictures=sum(n for _, n in found.values()), hardware=processor(), torch=torch.__version__, commit=commit())
        rows.append(row)
        print('  '.join(f'{k} {v}' for k, v in row.items() if k not in ('hardware', 'torch', 'commit')))
    atomic_write(args.out, csv_text(rows).encode())
    print(f'written: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
