"""IEA40K: pictures with exposure residuals, read in the layout in which the authors publish it.

    ROOT/IEA_img/<img_id>                               the picture, .png
    ROOT/label/exposure_condition/<img_id stem>.npy     the label: int16, 256x256, ideal grey - this grey, in 0..255 units
    ROOT/label/global_best/<ref_id>                     the ideal reference, .png
    ROOT/label/validity/<img_id stem>.npy               optional, ours: uint8 256x256, 0 where the label means nothing
    CSV with the header  img_id,ref_id,score            one row a picture; score 0..10

The suffix of img_id is the exposure: _N4 .. _N1 = -4 .. -1 EV, _P0, _P1 .. _P4; frames of a real bracket are _F00, _F01 .. from dark to
bright. A scene is everything that shares a ref_id; splits are made by scene.
"""
import csv
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .images import read_image, resize_rgb, to_tensor
from .transforms import MIN_WINDOW, augment, resize

COLUMNS = ('img_id', 'ref_id', 'score')
LABEL_DTYPES = (np.int16, np.float16, np.float32, np.float64)  # int16 is the published kind


class DatasetError(ValueError):
    """A set that cannot be used; the message is one line that names the file and the reason."""


def read_table(path, columns):
    """Rows of a CSV file that has at least ``columns``, as dicts; a cell that its line lacks is empty.

    Raises:
        DatasetError: when the file is missing, cannot be read as UTF-8 text with commas, or has not all the columns.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as f:
            reader = csv.DictReader(f, restval='')
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(f'{path}: no column {", ".join(missing)}; the header must have {",".join(columns)}')
            return list(reader)
    except FileNotFoundError as e:
        raise DatasetError(f'{path}: no such file') from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DatasetError(f'{path}: not a readable CSV file ({e})') from e


def read_csv(path):
    """Rows of a split file as dicts with img_id, ref_id and score (float).

    Raises:
        DatasetError: when the file is missing or empty, a column is missing or a score is not a number.
    """
    rows = read_table(path, COLUMNS)
    if not rows:
        raise DatasetError(f'{path}: has no rows')
    for n, row in enumerate(rows, 2):
        if not row['img_id'] or not row['ref_id']:
            raise DatasetError(f'{path}: line {n} has an empty img_id or ref_id')
        try:
            row['score'] = float(row['score'])
        except ValueError as e:
            raise DatasetError(f"{path}: line {n}: score {row['score']!r} is not a number") from e
    return rows


def exposure_of(img_id):
    """The exposure that an img_id's suffix names: -4 .. 4 for _N4 .. _P4, None for anything else."""
    m = re.search(r'_([NP])(\d)$', Path(img_id).stem)
    return None if m is None else int(m.group(2)) * (-1 if m.group(1) == 'N' else 1)


def split_by_scene(rows, shares, seed=0):
    """Split rows so that no scene (ref_id) stands in two parts.

    Args:
        rows: as :func:`read_csv` gives them.
        shares: one number a part; they are scaled to sum 1.
        seed: of the shuffle of the scenes.

    Returns:
        list of lists of rows, in the order of ``shares``; a part whose share is above 0 gets a scene as long as there are enough.
    """
    if not shares or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f'shares are {shares}, accepted: numbers >= 0 with a sum above 0')
    scenes = sorted({r['ref_id'] for r in rows})
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(seed)).tolist()
    counts = np.diff(np.round(np.cumsum(shares) / sum(shares) * len(scenes)).astype(int), prepend=0)
    for empty in [k for k, share in enumerate(shares) if share > 0 and not counts[k]]:
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[empty] += 1
    ends = np.cumsum(counts)
    part = {scenes[s]: int(np.searchsorted(ends, i, side='right')) for i, s in enumerate(order)}
    return [[r for r in rows if part[r['ref_id']] == k] for k in range(len(shares))]


def read_array(path, dtypes, what):
    """A 2-D .npy of one of ``dtypes``; nothing is unpickled.

    Raises:
        DatasetError: missing, not an .npy, another dtype or number of dimensions.
    """
    try:
        # A memory map refuses a file that claims more than it holds before any memory is asked for.
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except FileNotFoundError as e:
        raise DatasetError(f'{path}: no such file') from e
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise DatasetError(f'{path}: not a readable .npy file ({str(e).splitlines()[0]})') from e
    if not isinstance(array, np.ndarray) or array.dtype not in [np.dtype(d) for d in dtypes]:
        raise DatasetError(f'{path}: dtype {getattr(array, "dtype", type(array).__name__)}, expected {what}')
    if array.ndim != 2 or min(array.shape) < 1:
        raise DatasetError(f'{path}: shape {array.shape}, expected two dimensions')
    return array


def read_validity(path, shape):
    """Which pixels of a label of ``shape`` (H, W) count: (H, W) bool, true where the file is not 0.

    Raises:
        DatasetError: as :func:`read_array`, or another shape.
    """
    mask = np.asarray(read_array(path, (np.uint8, np.bool_), 'uint8')) > 0
    if mask.shape != shape:
        raise DatasetError(f'{path}: shape {mask.shape}, expected {shape}')
    return mask


def read_label(path, shape=(256, 256)):
    """A label as float32 residual on [-1, 1], (1, H, W).

    Args:
        path: the .npy: int16 in 0..255 units (the published kind); floats in the same units are taken too.
        shape: the shape to insist on, or None.

    Raises:
        DatasetError: see :func:`read_array`; also for another shape, values that are not finite or beyond +-255.
    """
    array = read_array(path, LABEL_DTYPES, 'int16')
    if shape is not None and array.shape != tuple(shape):
        raise DatasetError(f'{path}: shape {array.shape}, expected {tuple(shape)}')
    label = torch.from_numpy(np.array(array, dtype=np.float32))[None] / 255
    if not torch.isfinite(label).all():
        raise DatasetError(f'{path}: holds values that are not finite')
    if label.abs().max() > 1:
        raise DatasetError(f'{path}: values up to {label.abs().max() * 255:.0f}, accepted: -255 to 255')
    return label


class IEA40K(Dataset):
    """Picture / residual pairs of one split.

    Args:
        root: folder with ``IEA_img`` and ``label``.
        csv: split file.
        size: side of the square that pictures (8-bit antialiased bilinear) and labels are brought to.
        augment, min_window: mirror, random window and resize; see :func:`datasets.transforms.random_flip_crop_resize`.
        label_shape: shape that every label must have; None takes any.

    ``dataset[i]`` is a dict: image (3, size, size) RGB on [0, 1]; residual (1, size, size); mask (1, size, size), 1 = valid;
    score; img_id; ref_id. With ``augment``, ``dataset[(i, seed, size)]`` fixes what is random and the size.

    Raises:
        DatasetError, ImageError: in one line, naming the file.
    """

    def __init__(self, root, csv, size=256, augment=False, label_shape=(256, 256), min_window=MIN_WINDOW):
        self.root, self.size, self.augment, self.label_shape, self.min_window = Path(root), size, augment, label_shape, min_window
        if not self.root.is_dir():
            raise DatasetError(f'{self.root}: no such folder')
        for folder in ('IEA_img', 'label/exposure_condition'):
            if not (self.root / folder).is_dir():
                raise DatasetError(f'{self.root}: has no folder {folder}')
        self.rows = read_csv(csv)

    def __len__(self):
        return len(self.rows)

    def picture_path(self, row):
        return self.root / 'IEA_img' / row['img_id']

    def label_path(self, row):
        return self.root / 'label' / 'exposure_condition' / (Path(row['img_id']).stem + '.npy')

    def validity_path(self, row):
        return self.root / 'label' / 'validity' / self.label_path(row).name  # need not be there

    def __getitem__(self, key):
        index, seed, size = key if isinstance(key, tuple) else (key, None, self.size)
        row = self.rows[index]
        picture = read_image(self.picture_path(row))
        label = read_label(self.label_path(row), self.label_shape)
        # For augmentation at the label's size; else straight from the file to the size asked for, in 8 bit.
        shape = tuple(label.shape[-2:]) if self.augment else (size, size)
        sample = {'image': to_tensor(resize_rgb(picture, shape)), 'residual': label, 'mask': torch.ones_like(label)}
        validity = self.validity_path(row)
        if validity.exists():
            sample['mask'] = torch.from_numpy(read_validity(validity, tuple(label.shape[-2:])).astype(np.float32))[None]
        sample = augment(sample, size, seed, self.min_window) if self.augment else resize(sample, size)
        return {**sample, 'score': row['score'], 'img_id': row['img_id'], 'ref_id': row['ref_id']}
