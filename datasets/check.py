"""Verify a set in the IEA40K layout before training: every fault is named, in one pass.

    python -m datasets.check DIR train.csv [val.csv ...]
    python -m datasets.check DIR train.csv --sheet sheet.png         also a contact sheet: picture, reference, residual

Named are: files that are missing or cannot be read, pictures and labels of the wrong size, labels of another dtype, values that are not
finite or beyond +-255, scores outside 0..10, rows that stand twice, scenes in two of the given splits, references that are missing, validity
masks that do not fit, are empty or hold no whole window of SSIM. A summary with histograms, of the valid pixels, follows. Exit code 0: clean;
1: faults; 2: the set cannot be read at all, or the sheet cannot be written.
"""
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cli import Parser, at_least
from metrics.pixel import whole_windows

from .iea40k import LABEL_DTYPES, DatasetError, exposure_of, read_array, read_csv, read_validity
from .images import ImageError, read_image

BINS = np.linspace(-1, 1, 21)
VALUES = np.arange(-255, 256)
BIN_OF = np.clip(np.digitize(VALUES / 255, BINS) - 1, 0, len(BINS) - 2)  # np.histogram of a few numbers costs as much as decoding a label


def check_row(root, row, size):
    """One row's faults, and what the summary needs.

    Returns:
        ``(faults, (mean residual, mean |residual|, histogram of the residual, share that is valid) or None)``.
    """
    faults, name = [], Path(row['img_id']).stem + '.npy'
    if not 0 <= row['score'] <= 10:
        faults.append(f'{row["img_id"]}: score {row["score"]} is outside 0..10')
    path = f'{root}/IEA_img/{row["img_id"]}'
    try:
        picture = read_image(path)
        if picture.size != (size[1], size[0]):
            faults.append(f'{path}: {picture.height}x{picture.width} pixels, the label is {size[0]}x{size[1]}')
    except ImageError as e:
        faults.append(str(e))
    reference = f'{root}/label/global_best/{row["ref_id"]}'
    if not os.path.isfile(reference):
        faults.append(f'{reference}: no such file')
    path = f'{root}/label/exposure_condition/{name}'
    try:
        label = read_array(path, LABEL_DTYPES, 'int16')
    except DatasetError as e:
        return [*faults, str(e)], None
    if label.shape != size:
        faults.append(f'{path}: shape {label.shape}, expected {size}')
    if label.dtype != np.int16 and not np.isfinite(label).all():
        return [*faults, f'{path}: holds values that are not finite'], None
    shape, low, high = label.shape, label.min(), label.max()
    if low < -255 or high > 255:
        return [*faults, f'{path}: values from {low:g} to {high:g}, accepted: -255 to 255'], None
    label, valid = np.asarray(label, np.int16).ravel(), 1.0
    validity = f'{root}/label/validity/{name}'
    if os.path.exists(validity):
        try:
            mask = read_validity(validity, shape)
        except DatasetError as e:
            return [*faults, str(e)], None
        if not mask.any():
            return [*faults, f'{validity}: marks no pixel as valid'], None
        try:
            whole_windows(mask)
        except ValueError as e:
            faults.append(f'{validity}: {e}')
        label, valid = label[mask.ravel()], mask.mean()
    counts = np.bincount(label + 255, minlength=511)
    total = len(label)
    histogram = np.bincount(BIN_OF, counts, len(BINS) - 1)
    return faults, (counts @ VALUES / total / 255, counts @ abs(VALUES) / total / 255, histogram / total, valid)


def _check_rows(root, rows, size):
    return [check_row(root, row, size) for row in rows]


def check_reference(path):
    """The fault of a reference picture that is there, or None."""
    try:
        read_image(path)
    except ImageError as e:
        return str(e)
    return None


def check_splits(splits):
    """Rows that stand twice and scenes that stand in two splits: one line each.

    Args:
        splits: split name -> rows.
    """
    faults, first_row, home = [], {}, {}
    for name, rows in splits.items():
        for row in rows:
            if row['img_id'] in first_row:
                faults.append(f'{name}: {row["img_id"]} stands twice (also in {first_row[row["img_id"]]})')
            first_row.setdefault(row['img_id'], name)
            if home.setdefault(row['ref_id'], name) != name:
                faults.append(f'{name}: scene {row["ref_id"]} is also in {home[row["ref_id"]]}')
                home[row['ref_id']] = name  # once for each change, not for each row
    return list(dict.fromkeys(faults))


def check(root, splits, size=(256, 256), workers=2, progress=None):
    """All faults of a set, and the numbers for a summary.

    Args:
        root: folder with IEA_img and label. splits: name -> rows. size: (height, width) of pictures and labels.
        workers: processes. progress: called with the number of rows after each chunk.

    Returns:
        ``(faults, statistics)``: statistics are ``(row, (mean, mean |.|, histogram, valid share))`` of the readable labels.
    """
    faults = check_splits(splits)
    rows = list({r['img_id']: r for part in splits.values() for r in part}.values())
    chunks = [rows[i:i + 64] for i in range(0, len(rows), 64)]
    statistics = []
    with ProcessPoolExecutor(workers) as pool:
        for chunk, results in zip(chunks, pool.map(_check_rows, [root] * len(chunks), chunks, [size] * len(chunks))):
            for row, (found, numbers) in zip(chunk, results):
                faults += found
                if numbers is not None:
                    statistics.append((row, numbers))
            if progress:
                progress(len(chunk))
        references = sorted({root / 'label' / 'global_best' / r['ref_id'] for r in rows})
        faults += [f for f in pool.map(check_reference, [r for r in references if r.is_file()], chunksize=64) if f]
    return faults, statistics


def summary(statistics):
    """Histograms as text: residual by pixel, and mean residual by exposure where the names tell it."""
    if not statistics:
        return 'no readable label'
    means = np.array([n[0] for _, n in statistics])
    histogram = np.mean([n[2] for _, n in statistics], 0)
    lines = [f'{len(statistics)} labels, mean residual {means.mean():+.3f}, mean |residual| {np.mean([n[1] for _, n in statistics]):.3f}',
             'residual  share of pixels']
    for k, share in enumerate(histogram):
        lines.append(f'{BINS[k]:+.1f} .. {BINS[k + 1]:+.1f}  {share:6.1%}  {"#" * round(60 * share / histogram.max())}')
    masked = [n[3] for _, n in statistics if n[3] < 1]
    if masked:
        lines.append(f'{len(masked)} labels have a validity mask with holes, {np.mean(masked):.1%} valid on average, '
                     f'{min(masked):.1%} at least')
    exposures = {}
    for row, (mean, *_) in statistics:
        exposures.setdefault(exposure_of(row['img_id']), []).append(mean)
    for ev in sorted(e for e in exposures if e is not None):
        lines.append(f'{ev:+d} EV: {len(exposures[ev])} pictures, mean residual {np.mean(exposures[ev]):+.3f}, spread {np.std(exposures[ev]):.3f}')
    return '\n'.join(lines)


def contact_sheet(root, rows, count=12, cell=160):
    """Rows with readable labels, spread over the set, as one picture: picture, reference, residual (blue under, white fine,
    red over, scale +-0.5). A picture or reference that cannot be read leaves its place grey."""
    def read(path):
        try:
            return read_image(path)
        except ImageError:  # named among the faults
            return Image.new('RGB', (cell, cell), 'grey')
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]
    sheet = Image.new('RGB', (cell * 3 * 2, cell * ((len(chosen) + 1) // 2)), 'white')
    for k, row in enumerate(chosen):
        x, y = (k % 2) * 3 * cell, (k // 2) * cell
        label = np.asarray(read_array(root / 'label/exposure_condition' / f'{Path(row["img_id"]).stem}.npy', LABEL_DTYPES, 'int16'))
        v = np.clip(label / 127.5, -1, 1)
        colours = np.stack((1 - v.clip(0), 1 - abs(v), 1 + v.clip(max=0)), -1)
        for i, picture in enumerate((read(root / 'IEA_img' / row['img_id']), read(root / 'label/global_best' / row['ref_id']),
                                     Image.fromarray((colours * 255).astype(np.uint8)))):
            sheet.paste(picture.resize((cell - 2, cell - 2)), (x + i * cell, y))
    return sheet


def main(argv=None):
    p = Parser(prog='python -m datasets.check', description='Verify a set in the IEA40K layout.')
    p.add_argument('data', type=Path, help='folder with IEA_img and label')
    p.add_argument('csv', type=Path, nargs='+', help='its split files, all that must not share scenes')
    p.add_argument('--size', type=int, nargs=2, default=(256, 256), metavar=('H', 'W'))
    p.add_argument('--sheet', type=Path, help='write a contact sheet (PNG)')
    p.add_argument('--workers', type=at_least(1), default=2)
    p.add_argument('--most', type=int, default=50, help='faults to print')
    args = p.parse_args(argv)
    try:
        if not args.data.is_dir():
            raise DatasetError(f'{args.data}: no such folder')
        splits = {str(c): read_csv(c) for c in args.csv}
    except DatasetError as e:
        print(f'{p.prog}: {e}', file=sys.stderr)
        return 2
    total = sum(map(len, splits.values()))
    with tqdm(total=total, unit='row', disable=not sys.stderr.isatty()) as bar:
        faults, statistics = check(args.data, splits, tuple(args.size), args.workers, bar.update)
    for fault in faults[:args.most]:
        print(fault)
    if len(faults) > args.most:
        print(f'and {len(faults) - args.most} more')
    print(summary(statistics))
    print(f'{total} rows, {len(faults)} faults' if faults else f'{total} rows, clean')
    if args.sheet and statistics:
        try:
            contact_sheet(args.data, [row for row, _ in statistics]).save(args.sheet, 'PNG')
        except OSError as e:
            print(f'{p.prog}: {args.sheet}: cannot be written ({e.strerror or e})', file=sys.stderr)
            return 2
        print(f'contact sheet: {args.sheet}')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
