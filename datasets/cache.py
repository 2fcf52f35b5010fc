"""A whole split in one file: decoded pictures and labels as a memory map, faster than any network here trains.

327 kB a picture (8-bit RGB, int16 label, validity), so IEA40K's 36,972 training pictures take 12 GB; the operating system keeps in
memory what fits. The file remembers the CSV and the sizes and dates of the files it was made from, and is made anew when they change.
"""
import contextlib
import hashlib
import json
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from .iea40k import IEA40K, DatasetError
from .transforms import MIN_WINDOW, augment, resize

HEADER = 4096  # bytes kept for the fingerprint


def record(side):
    return np.dtype([('image', 'u1', (side, side, 3)), ('label', '<i2', (side, side)), ('valid', 'u1', (side, side))])


def fingerprint(dataset, side):
    """What a cache depends on: the rows, and the size and date of every picture, label and, where there is one, validity mask."""
    digest = hashlib.sha256(f'{side}'.encode())
    for row in dataset.rows:
        digest.update(f'{row["img_id"]},{row["ref_id"]},{row["score"]}'.encode())
        validity = dataset.validity_path(row)
        for path in (dataset.picture_path(row), dataset.label_path(row), validity):
            try:
                status = path.stat()
            except FileNotFoundError as e:
                if path == validity:
                    continue
                raise DatasetError(f'{path}: no such file') from e
            digest.update(f'{status.st_size},{status.st_mtime_ns}'.encode())
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path):
    """One process at a time, the others wait; the lock goes with its process, however that ends. Without effect on Windows."""
    if fcntl is None:
        yield
        return
    lock = path.with_name(f'.{path.name}.lock')
    with open(lock, 'w') as f:
        with contextlib.suppress(OSError):  # a file system without locks: each makes its own
            fcntl.flock(f, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


class CachedIEA40K(Dataset):
    """IEA40K through a cache file; the samples are the same, 8-bit pictures and int16 labels of ``side`` x ``side``.

    Args:
        root, csv, augment, min_window: as for :class:`IEA40K`.
        path: the cache file; made when it is missing or out of date (temporary name, then renamed).
        side: of the squares that are kept.

    Raises:
        DatasetError, ImageError: as IEA40K, while the file is made.
    """

    def __init__(self, root, csv, path, augment=False, side=256, min_window=MIN_WINDOW):
        source = IEA40K(root, csv, size=side, label_shape=(side, side))
        self.rows, self.root, self.path, self.augment, self.side = source.rows, source.root, Path(path), augment, side
        self.min_window = min_window
        mark = fingerprint(source, side)
        if not self._is_current(mark):
            with locked(self.path):  # under torchrun one process makes the file
                if not self._is_current(mark):
                    self._write(source, mark)
        self._open()

    def _open(self):
        self.records = np.memmap(self.path, record(self.side), 'r', offset=HEADER, shape=(len(self.rows),))

    def __getstate__(self):  # a memory map would go to a data worker as a copy of the whole file
        return {k: v for k, v in self.__dict__.items() if k != 'records'}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _is_current(self, mark):
        try:
            with open(self.path, 'rb') as f:
                header = json.loads(f.read(HEADER).rstrip(b'\0'))
            expected = HEADER + len(self.rows) * record(self.side).itemsize
            return header.get('fingerprint') == mark and self.path.stat().st_size == expected
        except (OSError, ValueError, AttributeError):
            return False

    def _write(self, source, mark):
        temporary = self.path.with_name(f'.{self.path.name}.{os.getpid()}.tmp')
        try:
            with open(temporary, 'wb') as f:
                f.write(json.dumps({'fingerprint': mark}).encode().ljust(HEADER, b'\0'))
                for i in tqdm(range(len(source)), desc=f'cache {self.path.name}', unit='picture', disable=None):
                    sample, item = source[i], np.zeros((), record(self.side))
                    item['image'] = (sample['image'] * 255).round().byte().permute(1, 2, 0).numpy()
                    item['label'] = (sample['residual'][0] * 255).round().short().numpy()
                    item['valid'] = sample['mask'][0].byte().numpy()
                    f.write(item.tobytes())
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        index, seed, size = key if isinstance(key, tuple) else (key, None, self.side)
        item, row = self.records[index], self.rows[index]
        sample = {'image': torch.from_numpy(np.array(item['image'])).permute(2, 0, 1).contiguous().float() / 255,
                  'residual': torch.from_numpy(np.array(item['label'], np.float32))[None] / 255,
                  'mask': torch.from_numpy(np.array(item['valid'], np.float32))[None]}
        sample = augment(sample, size, seed, self.min_window) if self.augment else resize(sample, size)
        return {**sample, 'score': row['score'], 'img_id': row['img_id'], 'ref_id': row['ref_id']}
