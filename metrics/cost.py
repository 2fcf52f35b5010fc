"""What a method costs: parameters, operations, time and memory for one picture."""
import statistics
import time
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .methods import maps_of


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors alive at one time; ``peak`` is the most (not what operators use inside)."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and weakref.ref(t.untyped_storage()) not in self.known:
                storage = t.untyped_storage()
                size = storage.nbytes()
                self.known.add(weakref.ref(storage, lambda gone, size=size: self._drop(gone, size)))
                self.now += size
                self.peak = max(self.peak, self.now)
        return out

    def _drop(self, gone, size):
        self.known.discard(gone)
        self.now -= size


def cost(method, image, device='cpu', seconds=0.5, max_runs=50):
    """Cost of one picture at batch 1.

    Args:
        method: a :class:`metrics.methods.Method`.
        image: (1, 3, H, W) on the CPU.
        device: where the method's network lies; the time includes the way there and back.
        seconds, max_runs: how long to time it at most; at least 3 runs after 2 to warm up.

    Returns:
        dict: params; gflop (a multiply-add is two; convolutions, matrix products and attention, by torch's
        counter); ms (median) and ms_iqr; peak_mb: weights and activations (CUDA: what torch allocated at
        most; CPU: tensors alive at the same time). None where a figure means nothing.
    """
    result = dict.fromkeys(('params', 'gflop', 'ms', 'ms_iqr', 'peak_mb'))
    if not method.timed or isinstance(maps_of(method, image, ['cost'])[0], str):
        return result  # a method that fails here has been named where it was evaluated
    cuda = torch.device(device).type == 'cuda'

    def run():
        method.predict(image, ['cost'], None)
        if cuda:
            torch.cuda.synchronize(device)

    if method.network is not None:
        result['params'] = sum(p.numel() for p in method.network.parameters())
        with FlopCounterMode(display=False) as counter:
            run()
        result['gflop'] = counter.get_total_flops() / 1e9
        weights = sum(t.numel() * t.element_size() for t in method.network.state_dict().values())
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            activations = torch.cuda.max_memory_allocated(device) - before
        else:
            with LiveTensors() as live:
                run()
            activations = live.peak
        result['peak_mb'] = (weights + activations) / 2 ** 20
    times = []
    start = time.perf_counter()
    for n in range(max_runs + 2):
        if len(times) >= 3 and time.perf_counter() - start > seconds:
            break
        tick = time.perf_counter()
        run()
        if n >= 2:
            times.append(1e3 * (time.perf_counter() - tick))
    result['ms'] = statistics.median(times)
    quarter = statistics.quantiles(times, n=4)
    result['ms_iqr'] = quarter[2] - quarter[0]
    return result
