"""From a set and methods to per-picture numbers. Pictures stream through; only the numbers stay.

Batches are cut from the CSV's order and dealt out whole to the processes, so every picture meets the same
neighbours however many processes there are, and the numbers are put together before anything is summed.
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from models.grey import luma

from .methods import maps_of
from .pixel import MAP_NUMBERS, TRUTH_NUMBERS, NoTruth, Truth


@dataclass
class Measured:
    """Per-picture numbers of one set, or of one process's share of it.

    rows: each picture's place in the CSV; truth: (N, len(TRUTH_NUMBERS)); maps: method -> (N,
    len(MAP_NUMBERS)), NaN where it failed; failures: (method, img_id, reason).
    """
    name: str
    rows: list
    img_ids: list
    ref_ids: list
    scores: np.ndarray
    truth: np.ndarray
    maps: dict
    failures: list = field(default_factory=list)

    def of_truth(self, key):
        return self.truth[:, TRUTH_NUMBERS.index(key)]

    def of_map(self, method, key):
        return self.maps[method][:, MAP_NUMBERS.index(key)]


def evaluate(dataset, methods, name='', batch_size=16, workers=2, rank=0, world=1, progress=None):
    """Measure this process's share of a set.

    Args:
        dataset: ``len`` and ``[i]`` -> dict with image, residual, mask, score, img_id, ref_id
            (:class:`datasets.iea40k.IEA40K`). With ``labelled = False`` only the score counts: pixel figures are NaN.
        methods: list of :class:`metrics.methods.Method`, with distinct names.
        workers: threads that read pictures and compute figures.
        progress: called with the number of pictures after each batch.

    Returns:
        Measured: in the order of the CSV.

    Raises:
        ValueError: what the set raises for a sample that cannot be read, naming it. What a method raises goes
            to ``failures``.
    """
    n = len(dataset)
    batches = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)][rank::world]
    rows = [i for batch in batches for i in batch]
    out = Measured(name, rows, [], [], np.empty(0), np.full((len(rows), len(TRUTH_NUMBERS)), np.nan),
                   {m.name: np.full((len(rows), len(MAP_NUMBERS)), np.nan) for m in methods})
    scores, at = [], 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for images, truths, samples in _prefetch(pool, dataset, batches, max(1, workers) + 1):
            ids = [s['img_id'] for s in samples]
            out.img_ids += ids
            out.ref_ids += [s['ref_id'] for s in samples]
            scores += [float(s['score']) for s in samples]
            out.truth[at:at + len(ids)] = [[t.numbers[k] for k in TRUTH_NUMBERS] for t in truths]
            for method in methods:
                maps = maps_of(method, images, ids, name)
                for k, numbers in enumerate(pool.map(_measure, truths, maps)):
                    if isinstance(numbers, str):
                        out.failures.append((method.name, ids[k], numbers))
                    else:
                        out.maps[method.name][at + k] = numbers
            at += len(ids)
            if progress:
                progress(len(ids))
    out.scores = np.array(scores, np.float64)
    return out


def _load(dataset, batch):
    samples = [dataset[i] for i in batch]
    images = torch.stack([s['image'] for s in samples])
    if not getattr(dataset, 'labelled', True):
        return images, [NoTruth() for _ in samples], samples
    truths = []
    for s, grey in zip(samples, luma(images)):
        try:
            truths.append(Truth(s['residual'][0], s['mask'][0], grey[0]))
        except ValueError as error:
            raise ValueError(f'{s["img_id"]}: {error}') from error
    return images, truths, samples


def _measure(truth, prediction):
    if isinstance(prediction, str):
        return prediction
    numbers = truth.measure(prediction)
    return [numbers[k] for k in MAP_NUMBERS]


def _prefetch(pool, dataset, batches, ahead):
    waiting, batches = deque(), iter(batches)
    try:
        while True:
            while len(waiting) < ahead and (batch := next(batches, None)) is not None:
                waiting.append(pool.submit(_load, dataset, batch))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def combine(shares):
    """One :class:`Measured` from every process's, sorted by img_id whatever the order of the CSV."""
    rows = [r for m in shares for r in m.rows]
    ids = [i for m in shares for i in m.img_ids]
    refs = [r for m in shares for r in m.ref_ids]
    order = sorted(range(len(ids)), key=lambda k: (ids[k], rows[k]))
    return Measured(
        shares[0].name, [rows[k] for k in order], [ids[k] for k in order], [refs[k] for k in order],
        np.concatenate([m.scores for m in shares])[order], np.concatenate([m.truth for m in shares])[order],
        {name: np.concatenate([m.maps[name] for m in shares])[order] for name in shares[0].maps},
        sorted(f for m in shares for f in m.failures))
