"""How near `python -m datasets.check` comes to a bare loop that only reads the files.

    python benchmarks/check_speed.py --data sets/photos --csv sets/photos/val.csv --rows 40000

The set is filled up to the rows asked for with hard links in a temporary folder beside it. The check and a loop on as many processes,
Pillow and np.load over the same pictures, labels and references, take turns part by part, so that other work on the machine slows both
alike.
"""
import argparse
import csv
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.check import check  # noqa: E402
from datasets.iea40k import read_csv  # noqa: E402
from metrics.environment import commit, hardware  # noqa: E402

FOLDERS = ('IEA_img', 'label/exposure_condition', 'label/global_best')


def fill_up(source, rows, count, target):
    """``count`` rows out of ``rows``, each copy under names of its own, as hard links."""
    for folder in FOLDERS:
        (target / folder).mkdir(parents=True)
    result, references = [], set()
    while len(result) < count:
        copy = len(result) // len(rows)
        for row in rows[:count - len(result)]:
            new = {'img_id': f'{copy}-{row["img_id"]}', 'ref_id': f'{copy}-{row["ref_id"]}', 'score': row['score']}
            os.link(source / 'IEA_img' / row['img_id'], target / 'IEA_img' / new['img_id'])
            stem, old = (Path(r['img_id']).stem + '.npy' for r in (new, row))
            os.link(source / FOLDERS[1] / old, target / FOLDERS[1] / stem)
            if new['ref_id'] not in references:
                references.add(new['ref_id'])
                os.link(source / FOLDERS[2] / row['ref_id'], target / FOLDERS[2] / new['ref_id'])
            result.append(new)
    return result


def bare(paths):
    for path in paths:
        if path.suffix == '.npy':
            np.load(path)
        else:
            with Image.open(path) as picture:
                picture.load()


def bare_loop(root, rows, workers):
    paths = [p for r in rows for p in (root / 'IEA_img' / r['img_id'], root / FOLDERS[1] / f'{Path(r["img_id"]).stem}.npy')]
    paths += sorted({root / FOLDERS[2] / r['ref_id'] for r in rows})
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(bare, [paths[i:i + 128] for i in range(0, len(paths), 128)]))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--csv', type=Path, required=True)
    p.add_argument('--rows', type=int, default=40_000)
    p.add_argument('--parts', type=int, default=10)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results' / 'check_speed.csv')
    args = p.parse_args()
    seconds = {'check': 0.0, 'bare loop': 0.0}
    with tempfile.TemporaryDirectory(dir=args.data.parent) as folder:
        rows, faults = fill_up(args.data, read_csv(args.csv), args.rows, Path(folder)), []
        size = -(-len(rows) // args.parts)
        for k in range(args.parts):
            part = rows[k * size:(k + 1) * size]
            for name in ('check', 'bare loop') if k % 2 else ('bare loop', 'check'):
                start = time.perf_counter()
                if name == 'check':
                    faults += check(Path(folder), {'part': part}, workers=args.workers)[0]
                else:
                    bare_loop(Path(folder), part, args.workers)
                seconds[name] += time.perf_counter() - start
            print('  '.join(f'{n} {min((k + 1) * size, len(rows)) / s:.0f} rows/s' for n, s in seconds.items()), flush=True)
    row = {'rows': len(rows), 'faults': len(faults), 'workers': args.workers, 'check_rows_per_s': round(len(rows) / seconds['check'], 1),
           'bare_rows_per_s': round(len(rows) / seconds['bare loop'], 1), 'share': round(seconds['bare loop'] / seconds['check'], 3),
           'load_average': round(os.getloadavg()[0], 1), 'hardware': hardware('cpu')['cpu'], 'commit': commit()}
    print('  '.join(f'{k} {v}' for k, v in row.items()))
    with open(args.out, 'w', newline='') as f:
        writer = csv.DictWriter(f, row)
        writer.writeheader()
        writer.writerow(row)


if __name__ == '__main__':
    main()
