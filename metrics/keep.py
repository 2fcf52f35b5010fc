"""Per-picture numbers on disk: what was measured once need not be measured again, after an interruption or beside a new method."""
import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from models.checkpoint import atomic_write

from .environment import sha256
from .methods import maps_of
from .pixel import MAP_NUMBERS

CODE = [Path(__file__).with_name(name) for name in ('pixel.py', 'evaluate.py', 'methods.py')]


class Keep:
    """A folder with one file for each set and method, named by a digest of all that its numbers depend on.

    That is the set (its rows, and the size and date of each file), the method's weights, the map that the method gives for the set's first
    picture, to the bit, and the code that measures. So a change of a network's code shows as well, if it changes that map. Folders of
    maps are not kept: nothing says whether their files changed, and reading them is quick.

    Args:
        folder: made when it is not there.
        dataset: :class:`datasets.iea40k.IEA40K` or the like. name: of the set.
    """

    def __init__(self, folder, dataset, name):
        self.folder, self.name = Path(folder), name
        self.folder.mkdir(parents=True, exist_ok=True)
        sample = dataset[0]
        self.image, self.img_id = sample['image'][None], sample['img_id']
        digest = hashlib.sha256()
        for row in dataset.rows:
            files = [dataset.root / 'IEA_img' / row['img_id']]
            if getattr(dataset, 'labelled', True):
                files += [dataset.label_path(row), dataset.validity_path(row)]
            stats = [(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in files if f.exists())]
            digest.update(repr((row['img_id'], row['ref_id'], row['score'], stats)).encode())
        self.set_digest = digest.hexdigest() + str(dataset.size)

    def path(self, method):
        """The method's file, or None for a method whose numbers are not kept."""
        if method.kind not in ('checkpoint', 'untrained'):
            return None
        first, = maps_of(method, self.image, [self.img_id], self.name)
        first = first if isinstance(first, str) else first.tobytes().hex()
        weights = sha256(method.source) if method.source else ''
        parts = (self.set_digest, weights, first, MAP_NUMBERS, [sha256(f) for f in CODE])
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
        return self.folder / f'{self.name.replace("/", "-")}_{method.name.replace("/", "-")}_{digest}.npz'

    def read(self, method):
        """Numbers (N, len(MAP_NUMBERS)) in the order of img_id, or None: not there, cut short, or with failures, which may be gone by now."""
        path = self.path(method)
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return None if json.loads(str(stored['failures'])) else stored['numbers']
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def write(self, method, measured):
        """Keep a method's part of a :class:`metrics.evaluate.Measured` that is whole.

        Raises:
            OSError: it cannot be written; nothing is left behind.
        """
        path = self.path(method)
        if path is None:
            return
        failures = [(i, r) for m, i, r in measured.failures if m == method.name]
        data = io.BytesIO()
        np.savez_compressed(data, numbers=measured.maps[method.name], failures=json.dumps(failures),
                            img_ids=np.array(measured.img_ids), columns=np.array(MAP_NUMBERS))
        atomic_write(path, data.getvalue())
