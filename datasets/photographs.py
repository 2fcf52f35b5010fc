"""Well-exposed photographs as a training set: the trainer exposes them anew at every step (datasets/simulation.py), no files needed."""
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .iea40k import DatasetError, read_csv
from .images import IMAGE_EXTENSIONS, ImageError, read_image, resize_rgb
from .transforms import MIN_WINDOW, augment

LEGEND = '_exposure_legend.png'
OUTPUTS = ('_exposure.png', '_exposure_overlay.png', LEGEND)  # how names of what make_heatmap.py writes beside pictures end
TEXT_KEY = 'exposure'  # the PNG text entry that all of it carries


def read_text(path) -> str | None:
    """The text that exposure.heatmap stored in a PNG; None: no such file, not one of ours, or cut short."""
    try:
        with Path(path).open('rb') as file:
            if file.read(8) != b'\x89PNG\r\n\x1a\n':
                return None
            text = None
            while len(header := file.read(8)) == 8 and header[4:] != b'IDAT':
                data = file.read(int.from_bytes(header[:4], 'big') + 4)[:-4]
                if header[4:] == b'tEXt' and data.startswith(TEXT_KEY.encode() + b'\0'):
                    text = data[len(TEXT_KEY) + 1 :].decode('latin-1')
            file.seek(-8, 2)
            return text if file.read(4) == b'IEND' else None
    except OSError:
        return None


def is_output(path) -> bool:
    """Whether make_heatmap.py wrote this file: named so, and with our text in it, for a photograph may be called long_exposure.png."""
    name = os.path.basename(path)
    if name == LEGEND:  # by name alone: earlier versions wrote no text into it
        return True
    return name.endswith(OUTPUTS) and os.path.isfile(path) and read_text(path) is not None  # a pipe is not opened


def list_images(folder):
    """All pictures below a folder, sorted; or, for the CSV of a set in the IEA40K layout that lies in its folder, the references of its rows.

    Hidden files and folders ('._a.png', '.thumbnails/') and our own heat maps (:func:`is_output`) are left out.

    Raises:
        DatasetError: when the folder is missing or holds none, or the CSV cannot be used.
    """
    folder = Path(folder)
    if folder.suffix == '.csv':
        return [folder.parent / 'label' / 'global_best' / r for r in sorted({row['ref_id'] for row in read_csv(folder)})]
    if not folder.is_dir():
        raise DatasetError(f'{folder}: no such folder')
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file()
                   and not any(part.startswith('.') for part in p.relative_to(folder).parts) and not is_output(p))
    if not files:
        raise DatasetError(f'{folder}: holds no pictures')
    return files


class Photographs(Dataset):
    """Reference pictures, decoded once and kept as 8-bit squares in memory (``side``^2 x 3 bytes each).

    Args:
        folders: as :func:`list_images` takes them. side: of the squares.
        skip_bad: go on without pictures that cannot be read; ``skipped`` is the list of their errors.
        min_window: of the random windows, see :func:`datasets.transforms.random_flip_crop_resize`.

    ``dataset[(i, seed, size)]`` is a dict like a sample of IEA40K, but ``image`` is the ideal picture itself, ``residual`` zero and
    ``simulate`` true: the training step exposes it anew, batched, on its own device.

    Raises:
        DatasetError, ImageError: in one line, naming the file; with ``skip_bad`` only when none can be read.
    """

    def __init__(self, folders, side=320, skip_bad=False, min_window=MIN_WINDOW):
        found = [path for folder in folders for path in list_images(folder)]
        self.side, self.min_window, self.files, self.skipped = side, min_window, [], []
        pictures = np.empty((len(found), side, side, 3), np.uint8)
        for path in found:
            try:
                pictures[len(self.files)] = resize_rgb(read_image(path), side)
                self.files.append(path)
            except ImageError as e:
                if not skip_bad:
                    raise
                self.skipped.append(str(e))
        if not self.files:
            raise DatasetError(f'none of {len(found)} photographs could be read: {self.skipped[0]}')
        self.pictures = pictures[:len(self.files)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, key):
        index, seed, size = key
        image = torch.from_numpy(self.pictures[index]).permute(2, 0, 1).float() / 255
        zero = torch.zeros(1, self.side, self.side)
        sample = augment({'image': image, 'residual': zero, 'mask': zero + 1}, size, seed, self.min_window)
        sample['image'] = (sample['image'] * 255).round() / 255
        return {**sample, 'score': 10.0, 'img_id': str(self.files[index]), 'ref_id': str(self.files[index])}
