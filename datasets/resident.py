"""Whole training sets in the memory of the device, cut into batches there: a fast GPU is then not kept waiting by data workers.

327 kB a picture, as in the cache: 16 GB hold 49,000. The batches are those of the data workers, same keys and same windows, up to rounding.
"""
import copy

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .photographs import Photographs
from .sampler import leave_signals_to_main
from .simulation import move, quantise
from .transforms import random_window


def resize_weights(start, length, mirrored, side, size):
    """Matrices that cut windows out of an axis of ``side`` pixels and bring them to ``size``: antialiased bilinear, as F.interpolate.

    Args:
        start, length: (B,) of the windows, in pixels. mirrored: (B,) bool, the axis turned round before the cut.

    Returns:
        (B, size, side), rows that sum to 1.
    """
    start, length = start[:, None, None].float(), length[:, None, None].float()
    at = torch.arange(side, device=start.device) - start
    scale = length / size
    centre = scale * (torch.arange(size, device=start.device)[:, None] + 0.5)
    weights = (1 - (at + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min(0) * ((at >= 0) & (at < length))
    weights = weights / weights.sum(2, keepdim=True)
    return torch.where(mirrored[:, None, None], weights.flip(2), weights)


class Compact(Dataset):
    """The samples of a part as they are kept: 8-bit picture (3, H, W), int16 label (H, W), mask (H, W). A quarter of the bytes to pass on."""

    def __init__(self, part):
        self.part = copy.copy(part)  # as it lies on disk, nothing cut out
        self.part.augment = False

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        sample = self.part[index]
        return (sample['image'] * 255).round().byte(), (sample['residual'][0] * 255).round().short(), sample['mask'][0].bool()


class ResidentPart:
    """One source's pictures, labels and masks on the device.

    Args:
        part: :class:`datasets.photographs.Photographs`, or pairs (IEA40K, through its cache or not).
        device: where to keep it. workers: processes that read the files.

    Raises:
        DatasetError, ImageError: as the part's own.
    """

    def __init__(self, part, device, workers=0):
        self.simulate, self.min_window, self.labels, self.masks = isinstance(part, Photographs), part.min_window, None, None
        if self.simulate:
            self.names, self.side = [str(f) for f in part.files], part.side
            self.images = torch.from_numpy(part.pictures).permute(0, 3, 1, 2).contiguous().to(device)
            return
        whole = Compact(part)
        self.names, self.side = [row['img_id'] for row in part.rows], whole[0][0].shape[-1]
        shape = len(self.names), self.side, self.side
        self.images = torch.empty(shape[0], 3, *shape[1:], dtype=torch.uint8, device=device)
        self.labels, self.masks = (torch.empty(shape, dtype=kind, device=device) for kind in (torch.int16, torch.bool))
        loader = DataLoader(whole, batch_size=64, num_workers=workers, worker_init_fn=leave_signals_to_main)
        n = 0
        for image, label, mask in tqdm(loader, desc='into memory', disable=None):
            here = slice(n, n + len(image))
            n = here.stop
            self.images[here], self.labels[here], self.masks[here] = image.to(device), label.to(device), mask.to(device)
        if self.masks.all():
            self.masks = None

    def batch(self, keys):
        """``(image, residual, mask)`` of ``[(index, seed, size), ...]``, all of one size."""
        device, size, side = self.images.device, keys[0][2], self.side
        windows = [random_window(side, side, torch.Generator().manual_seed(seed), self.min_window) for _, seed, _ in keys]
        index, mirrored, top, left, height, width = move(torch.tensor([(k[0], *w) for k, w in zip(keys, windows)]), device).unbind(1)
        rows = resize_weights(top, height, torch.zeros_like(mirrored, dtype=torch.bool), side, size)[:, None]
        columns = resize_weights(left, width, mirrored.bool(), side, size)[:, None].mT

        def cut(maps):
            return rows @ maps[index].float() @ columns
        image = cut(self.images) / 255
        if self.simulate:
            image = quantise(image)
        ones = torch.ones_like(image[:, :1])
        residual = ones * 0 if self.labels is None else cut(self.labels[:, None]) / 255
        return image, residual, ones if self.masks is None else (cut(self.masks[:, None]) > 0.999).float()


class ResidentLoader:
    """Stands in for the DataLoader: batches of a :class:`datasets.sampler.StepSampler`, made on the device.

    Args:
        parts: the sources. batch_sampler: gives keys ``(index, seed, size)`` into them, one after the other.
        device, workers: see :class:`ResidentPart`.
    """

    def __init__(self, parts, batch_sampler, device, workers=0):
        self.batch_sampler = batch_sampler
        self.parts = [ResidentPart(part, device, workers) for part in parts]

    def __iter__(self):
        for keys in self.batch_sampler:
            pieces, simulate, number, names, offset = [], [], [], [], 0
            for k, part in enumerate(self.parts):
                own = [(index - offset, seed, size) for index, seed, size in keys if offset <= index < offset + len(part.names)]
                offset += len(part.names)
                if own:
                    pieces.append(part.batch(own))
                    simulate += [part.simulate] * len(own)
                    number += [k] * len(own)
                    names += [part.names[index] for index, _, _ in own]
            image, residual, mask = (torch.cat(p) for p in zip(*pieces))
            yield dict(image=image, residual=residual, mask=mask, simulate=torch.tensor(simulate), part=torch.tensor(number), img_id=names,
                       skipped=[])
