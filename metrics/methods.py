"""What can be a row of the benchmark: a checkpoint, an untrained baseline, a folder of someone's maps."""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch

from models.baselines.untrained import UNTRAINED
from models.checkpoint import load_model
from models.p_ieanet import set_ideal


@dataclass
class Method:
    """A row.

    ``predict(images, img_ids, set_name)``: images (B, 3, H, W) RGB on [0, 1] on the CPU -> residual (B, 1, H,
    W), tensor or array. ``network`` is there when parameters and operations can be counted, ``timed`` when
    running it means something, ``source`` is its file or folder.
    """
    name: str
    kind: str
    predict: Callable
    network: torch.nn.Module = None
    timed: bool = True
    source: Path = None


def from_network(name, network, device='cpu'):
    """Any nn.Module (B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W), on ``device`` and in eval mode."""
    @torch.inference_mode()
    def predict(images, img_ids=None, set_name=None):
        return network(images.to(device)).float().cpu()
    return Method(name, 'network', predict, network)


def from_checkpoint(path, device='cpu', ideal='auto'):
    """``FILE`` or ``NAME=FILE``: what ``models.checkpoint.load_model`` reads (it raises CheckpointError).

    With an ``ideal`` (:func:`models.p_ieanet.set_ideal`) its name says so; weights that cannot be told raise a ValueError.
    """
    name, path = _label(path)
    network = load_model(path, device)
    try:
        set_ideal(network, ideal)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from e
    method = from_network(name if ideal == 'auto' else f'{name}, {ideal}', network, device)
    method.kind, method.source = 'checkpoint', path
    return method


def from_baseline(name):
    """An untrained baseline by its name in ``models.baselines.untrained.UNTRAINED``."""
    if name not in UNTRAINED:
        raise ValueError(f'unknown baseline {name!r}, accepted: {", ".join(UNTRAINED)}, all')
    return Method(name, 'untrained', lambda images, img_ids=None, set_name=None: UNTRAINED[name](images))


def from_maps(folder):
    """``DIR`` or ``NAME=DIR``: a float map (H, W) or (1, H, W) a picture, <stem>.npy or <stem>_exposure.npy.

    With several sets the maps may lie in ``DIR/<set name>/``. A missing map, an integer one, a wrong size:
    that picture has failed.
    """
    name, folder = _label(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder')

    def read(stem, set_name):
        own = folder / set_name if set_name and (folder / set_name).is_dir() else folder
        for path in (own / f'{stem}.npy', own / f'{stem}_exposure.npy'):
            if path.is_file():
                array = np.load(path, mmap_mode='r', allow_pickle=False)
                if array.dtype.kind != 'f':
                    raise ValueError(f'{path.name} holds {array.dtype}, accepted: float residuals on [-1, 1]')
                array = np.array(array, np.float32)
                return array[None] if array.ndim == 2 else array
        raise FileNotFoundError(f'no {stem}.npy or {stem}_exposure.npy in {own}')

    return Method(name, 'maps', lambda images, img_ids, set_name=None: np.stack(
        [read(Path(i).stem, set_name) for i in img_ids]), timed=False, source=folder)


def _label(text):
    """NAME=PATH or PATH; the name is the file's stem or the folder's name otherwise."""
    text = str(text)
    if '=' in text and not Path(text).exists():
        name, path = text.split('=', 1)
        return name, Path(path)
    path = Path(text)
    return (path.name if path.is_dir() else path.stem) or str(path), path


def distinct_names(methods):
    """Number the rows that share a name: model, model (2)."""
    seen = Counter()
    for m in methods:
        seen[m.name] += 1
        if seen[m.name] > 1:
            m.name = f'{m.name} ({seen[m.name]})'
    return methods


def maps_of(method, images, img_ids, set_name=None):
    """Every picture's map, or the reason why there is none: list of (H, W) float array or str.

    A batch that fails is tried again picture by picture, so that one bad picture costs only itself.
    """
    try:
        maps = method.predict(images, img_ids, set_name)
    except Exception as error:  # whatever a foreign method throws belongs into its row, not into the run
        if len(images) == 1:
            return [f'{type(error).__name__}: {(str(error).splitlines() or ["no message"])[0]}']
        return [maps_of(method, images[i:i + 1], img_ids[i:i + 1], set_name)[0] for i in range(len(images))]
    expected = (len(images), 1) + tuple(images.shape[-2:])
    if tuple(maps.shape) != expected:
        return [f'a map of shape {tuple(maps.shape[1:])}, expected {expected[1:]}'] * len(images)
    return [_checked(np.asarray(m, np.float32)[0]) for m in maps]


def _checked(m):
    if not np.isfinite(m).all():
        return f'NaN or infinity in {np.mean(~np.isfinite(m)):.2%} of the map'
    largest = np.abs(m).max()
    if largest > 2:  # a little beyond 1 is an error like any other, this is another unit
        return f'values up to {largest:.0f}: is the map in 0..255 units? Accepted: residuals on [-1, 1]'
    return m
