"""Which samples make up which batch: a pure function of (seed, step), so that a run can be resumed at any step."""
import os
import signal

import torch
from torch.utils.data import Sampler


def mixed(*numbers):
    """One 63-bit seed out of several whole numbers (splitmix64)."""
    h = 0
    for n in numbers:
        h = (h + int(n) + 0x9E3779B97F4A7C15) & (2 ** 64 - 1)
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & (2 ** 64 - 1)
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & (2 ** 64 - 1)
        h ^= h >> 31
    return h >> 1


def leave_signals_to_main(worker):
    """``worker_init_fn`` of loaders: Ctrl-C reaches every process of a terminal, and ``timeout``'s SIGTERM a whole group, but when to stop is
    for the main process to say. SIGTERM itself still ends a worker, for the loader ends its workers so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)


class StepSampler(Sampler):
    """Batches of keys ``(index, seed, size)`` for a ConcatDataset, from ``start`` to ``stop``.

    Each part of the set gives a fixed number of samples to every batch, in its own order, shuffled anew for every pass.
    Under torchrun every rank takes its share of the same global batch, so the batches do not depend on the number of processes.

    Args:
        lengths: number of samples of each part. counts: samples that each part gives to a global batch.
        sizes: picture sides to choose from, one a step. seed: of everything.
        late_sizes: the same for the last fifth of the steps up to ``stop``; empty: ``sizes`` to the end.
        start, stop: steps. rank, world: this process and their number; ``sum(counts)`` must be a multiple of ``world``.
    """

    def __init__(self, lengths, counts, sizes, seed, start, stop, rank=0, world=1, late_sizes=()):
        if sum(counts) % world:
            raise ValueError(f'the batch of {sum(counts)} cannot be shared among {world} processes')
        if any(c and not n for n, c in zip(lengths, counts)):
            raise ValueError(f'an empty part cannot give samples: lengths {lengths}, counts {counts}')
        self.lengths, self.counts, self.sizes, self.seed = lengths, counts, sizes, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world
        self.late_sizes, self._orders = late_sizes, {}

    def __len__(self):
        return self.stop - self.start

    def _index(self, part, position):
        turn, place = divmod(position, self.lengths[part])
        if (part, turn) not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != part or k[1] == turn - 1}
            g = torch.Generator().manual_seed(mixed(self.seed, 1, part, turn))
            self._orders[part, turn] = torch.randperm(self.lengths[part], generator=g).tolist()
        return self._orders[part, turn][place]

    def batch(self, step):
        """The keys of the whole global batch of a step."""
        sizes = self.late_sizes if self.late_sizes and step >= 0.8 * self.stop else self.sizes
        size = sizes[mixed(self.seed, 2, step) % len(sizes)]
        keys, offset = [], 0
        for part, (n, count) in enumerate(zip(self.lengths, self.counts)):
            for j in range(count):
                index = offset + self._index(part, step * count + j)
                keys.append((index, mixed(self.seed, 3, step, len(keys)), size))
            offset += n
        return keys

    def __iter__(self):
        for step in range(self.start, self.stop):
            yield self.batch(step)[self.rank::self.world]
