"""Compare "methods" whose winner is known: of each real bracket the darkest, the best and the brightest frame.

    python benchmarks/compare_brackets.py --stacks stacks --split test --out report/

--stacks is the folder that docs/data.md rebuilds, --list its list (docs/lists/stacks.csv), whose is_reference marks the best frame. It lays out
OUT/originals (the middle frames) and OUT/darkest, OUT/reference, OUT/brightest with a picture a scene, runs `exposure.compare` on them
(OUT/report/index.html), and prints how often the reference frame has the smallest mean |residual| of the three, and of all frames of
its scene, beside auto-exposure's choice. Where the reference is an end frame, it stands for two methods: two frames are left to choose from.
"""
import argparse
import csv
import shutil
import sys
from pathlib import Path

from scipy.stats import binomtest
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import output_file
from datasets.images import read_image, resize_rgb, to_tensor
from exposure.compare import compare, find_methods
from exposure.predictor import DEFAULT_CHECKPOINT, Predictor
from metrics.report import csv_text
from models.baselines.untrained import UNTRAINED
from models.checkpoint import atomic_write

METHODS = ('originals', 'darkest', 'reference', 'brightest')


def read_brackets(stacks, listed, split):
    """{scene: (frames dark to bright, index of the reference)} of one split.

    Raises:
        ValueError: the list has no such split, or a scene has no reference or lacks a file.
    """
    rows = {}
    with open(listed, newline='', encoding='utf-8') as f:
        for row in csv.DictReader(f):
            if row['split'] == split:
                rows.setdefault(row['scene'], []).append(row)
    if not rows:
        raise ValueError(f'{listed}: has no split {split!r}')
    brackets = {}
    for scene, frames in sorted(rows.items()):
        frames.sort(key=lambda row: int(row['order']))
        marked = [i for i, row in enumerate(frames) if row['is_reference'] == '1']
        if len(marked) != 1:
            raise ValueError(f'{listed}: scene {scene} has {len(marked)} reference frames, expected 1')
        paths = [stacks / row['file'] for row in frames]
        if lacking := [path for path in paths if not path.is_file()]:
            raise ValueError(f'{lacking[0]}: no such file')
        brackets[scene] = paths, marked[0]
    return brackets


def lay_out(brackets, out):
    """Folders of same-named pictures, one a method."""
    for method in METHODS:
        (out / method).mkdir(parents=True, exist_ok=True)
    for scene, (frames, reference) in brackets.items():
        for method, frame in zip(METHODS, (frames[len(frames) // 2], frames[0], frames[reference], frames[-1])):
            shutil.copyfile(frame, out / method / f'{scene}{frame.suffix}')


def distances(frames, predictor):
    """Mean |residual| of every frame by the predictor and by auto-exposure: {name: [..]}."""
    pictures = [read_image(frame) for frame in frames]
    small = [to_tensor(resize_rgb(picture, 256))[None] for picture in pictures]
    return {'P-IEANet': [r.mean_abs_residual for r in predictor.predict_batch(pictures)],
            'auto-exposure': [UNTRAINED['auto-exposure'](x).abs().mean().item() for x in small]}


def picks(values, candidates, reference):
    """Is the reference the one of the candidates (indices) with the smallest value?"""
    return min(set(candidates), key=lambda i: values[i]) == reference


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--stacks', type=Path, required=True, help='folder with SPLIT/SCENE/NN.jpg')
    p.add_argument('--list', type=Path, default=Path(__file__).resolve().parent.parent / 'docs/lists/stacks.csv')
    p.add_argument('--split', default='test')
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    p.add_argument('--device', default='auto')
    p.add_argument('--sheets', type=int, default=24, help='contact sheets of the report')
    p.add_argument('--csv', type=output_file, help='write here who chose the reference frame in which scene')
    args = p.parse_args(argv)
    try:
        brackets = read_brackets(args.stacks, args.list, args.split)
        predictor = Predictor(args.checkpoint, args.device)
        lay_out(brackets, args.out)
        methods, names = find_methods([str(args.out / method) for method in METHODS])
        compare(methods, names, predictor, args.out / 'report', args.sheets, weights=args.checkpoint.name)
        rows = []
        for scene, (frames, reference) in tqdm(brackets.items(), unit='scene', disable=None):
            for judge, values in distances(frames, predictor).items():
                rows.append({'scene': scene, 'frames': len(frames), 'judge': judge,
                             'of_three_frames': int(picks(values, (0, reference, len(frames) - 1), reference)),
                             'of_all_frames': int(picks(values, range(len(frames)), reference))})
    except (ValueError, OSError) as error:
        p.error(' '.join(str(error).split()))
    for what in ('of_three_frames', 'of_all_frames'):
        for judge in ('auto-exposure', 'P-IEANet'):
            won = [row[what] for row in rows if row['judge'] == judge]
            interval = binomtest(sum(won), len(won)).proportion_ci(0.95, 'wilson')
            print(f'the reference frame is best {what.replace("_", " "):16} by {judge:14} in {sum(won)} of {len(won)} scenes: '
                  f'{sum(won) / len(won):.3f} ({interval.low:.3f} to {interval.high:.3f})')
    if args.csv:
        atomic_write(args.csv, csv_text(rows).encode())
    print(args.out / 'report' / 'index.html', file=sys.stderr)


if __name__ == '__main__':
    main()
