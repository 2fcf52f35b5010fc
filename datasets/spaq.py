"""SPAQ (Fang et al., "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020): pictures with people's scores, no maps.

    python -m datasets.spaq SPAQ --out sets/spaq          all.csv, train.csv, val.csv, test.csv, and IEA_img, a link to the pictures
    python eval_benchmark.py --data sets/spaq --csv sets/spaq/test.csv      without fine-tuning
    python train_wavelet.py --init checkpoints/p_ieanet.safetensors --score-head head.safetensors \\
        --data sets/spaq --train-csv sets/spaq/train.csv --val-csv sets/spaq/test.csv     with it

As published, SPAQ is a folder with ``TestImage/00001.jpg`` .. ``11125.jpg`` and ``Annotations/MOS and Image attribute scores.xlsx``, whose
columns are Image name, MOS, Brightness, Colorfulness, Contrast, Noisiness, Sharpness, each 0 to 100. A CSV of the same name is read as well
(save the sheet as CSV); the workbook itself needs openpyxl. It has no official split: ours is 70 : 10 : 20 by a seeded shuffle.
"""
import argparse
import csv
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset

from .iea40k import DatasetError, read_csv, split_by_scene
from .images import read_image, resize_rgb, to_tensor

SHEET = 'Annotations/MOS and Image attribute scores'
ATTRIBUTES = ('MOS', 'Brightness', 'Colorfulness', 'Contrast', 'Noisiness', 'Sharpness')


def read_annotations(root, attribute='Brightness'):
    """Rows (img_id, ref_id, score) of SPAQ's sheet, in its order; score is the attribute divided by 10, ref_id the picture itself.

    Args:
        root: the folder that holds Annotations and TestImage.
        attribute: one of ``ATTRIBUTES``. People rated brightness, which is the nearest to exposure and what the paper can have meant.

    Raises:
        DatasetError: no such file, one that cannot be read, a missing column or picture name, a score that is not on 0..100.
    """
    sheet, book = Path(root) / f'{SHEET}.csv', Path(root) / f'{SHEET}.xlsx'
    if sheet.is_file():
        path = sheet
        try:
            with open(path, newline='', encoding='utf-8-sig') as f:
                lines = list(csv.reader(f))
        except (UnicodeDecodeError, csv.Error) as e:
            raise DatasetError(f'{path}: not a readable CSV file ({e}); save the sheet as CSV in UTF-8') from e
    elif book.is_file():
        path, lines = book, _workbook(book)
    else:
        raise DatasetError(f'{book}: no such file, nor a .csv of that name')
    header = [str(cell).strip() for cell in lines[0]] if lines else []
    missing = [c for c in ('Image name', attribute) if c not in header]
    if missing:
        raise DatasetError(f'{path}: no column {", ".join(missing)}; it has {", ".join(header) or "nothing"}')
    name, value, rows = header.index('Image name'), header.index(attribute), []
    for n, line in enumerate(lines[1:], 2):
        if not any(cell not in (None, '') for cell in line):
            continue  # spreadsheets end in empty lines
        try:
            score = float(line[value])
            if not line[name] or not 0 <= score <= 100:
                raise ValueError
        except (TypeError, ValueError, IndexError) as e:
            raise DatasetError(f'{path}: line {n} is {line}, expected a picture\'s name and a {attribute} from 0 to 100') from e
        rows.append({'img_id': str(line[name]).strip(), 'ref_id': str(line[name]).strip(), 'score': score / 10})
    if not rows:
        raise DatasetError(f'{path}: has no rows')
    return rows


def _workbook(path):
    try:
        from openpyxl import load_workbook
    except ImportError as e:
        name = path.with_suffix('.csv').name
        raise DatasetError(f'{path}: reading it needs openpyxl (pip install openpyxl); or save the sheet as {name}') from e
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        lines = [list(line) for line in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except Exception as e:  # a damaged workbook raises whatever zipfile or the XML reader stumbles over
        raise DatasetError(f'{path}: not a readable workbook ({str(e).splitlines()[0] if str(e) else type(e).__name__})') from e
    return lines


def prepare(root, out, attribute='Brightness', seed=0):
    """Write all.csv and the three splits to ``out``, and link its IEA_img to SPAQ's TestImage; returns {name: rows}.

    Raises:
        DatasetError: see :func:`read_annotations`; also for a picture that is not there, or a folder of others in the link's place.
    """
    root, out = Path(root), Path(out)
    rows = read_annotations(root, attribute)
    pictures = root / 'TestImage'
    lost = [r['img_id'] for r in rows if not (pictures / r['img_id']).is_file()]
    if lost:
        raise DatasetError(f'{pictures}: {len(lost)} pictures are missing, the first is {lost[0]}')
    out.mkdir(parents=True, exist_ok=True)
    link = out / 'IEA_img'
    if link.is_symlink() and link.resolve() != pictures.resolve():  # of another copy, whose names are the same
        link.unlink()
    if not link.exists():
        link.symlink_to(pictures.resolve(), target_is_directory=True)
    elif not link.samefile(pictures):
        raise DatasetError(f'{link}: is there already, and not SPAQ\'s pictures')
    parts = {'all': rows, **dict(zip(('train', 'val', 'test'), split_by_scene(rows, (0.7, 0.1, 0.2), seed)))}
    for name, part in parts.items():
        with open(out / f'{name}.csv', 'w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, ('img_id', 'ref_id', 'score'), lineterminator='\n')
            writer.writeheader()
            writer.writerows({**r, 'score': f'{r["score"]:g}'} for r in part)
    return parts


class ScoredPictures(Dataset):
    """Pictures of which only a score is known: a CSV like IEA40K's, and ROOT/IEA_img without labels beside it.

    ``dataset[i]`` is a dict like IEA40K's, of which residual and mask are zero everywhere: nothing is known of any pixel.
    """
    labelled = False

    def __init__(self, root, csv, size=256):
        self.root, self.size, self.rows = Path(root), size, read_csv(csv)
        if not (self.root / 'IEA_img').is_dir():
            raise DatasetError(f'{self.root}: has no folder IEA_img')

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        image = to_tensor(resize_rgb(read_image(self.root / 'IEA_img' / row['img_id']), self.size))
        nothing = torch.zeros(1, self.size, self.size)
        return {'image': image, 'residual': nothing, 'mask': nothing, **row}


def main(argv=None):
    p = argparse.ArgumentParser(description="Make SPAQ's sheet into the CSVs that the other programs read.")
    p.add_argument('root', type=Path, help='folder with Annotations and TestImage')
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--attribute', choices=ATTRIBUTES, default='Brightness')
    p.add_argument('--seed', type=int, default=0, help='of the split')
    args = p.parse_args(argv)
    try:
        parts = prepare(args.root, args.out, args.attribute, args.seed)
    except (DatasetError, OSError) as error:
        print(f'datasets.spaq: {error}', file=sys.stderr)
        return 2
    print(', '.join(f'{name}: {len(rows)}' for name, rows in parts.items()))
    return 0


if __name__ == '__main__':
    sys.exit(main())
