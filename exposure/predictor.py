"""Predictor: picture(s) in, full-size exposure maps out; any size, any batch, CPU or GPU.

    predictor = Predictor()                        # checkpoints/p_ieanet.safetensors
    result = predictor.predict('photo.jpg')        # a path or a PIL picture
    result.residual, result.score, result.share_under, result.share_over

The network sees the whole picture at a small working size, so that time and memory stay small at any size,
everything global is seen at once, and there are no tiles that could leave seams. Its answer is brought to
full size with the picture as the guide, for the residual's fine detail is the picture's own (residual = ideal
grey - this grey): around each pixel the map is a linear function of the picture's grey, whose two
coefficients are fitted on the small picture and upsampled (guided filter).

    Guided filter: He, Sun, Tang, "Guided image filtering", TPAMI 2013; coefficients from the small picture:
    He, Sun, "Fast guided filter", arXiv 1505.00996, 2015.
"""

import contextlib
import os
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from datasets.images import MAX_PIXELS, convert_image, read_image, resize_pixels, to_pixels
from models.checkpoint import load_model
from models.p_ieanet import set_ideal
from models.released import ReleasedWaveletNet

from .score_head import load_score_head, map_statistics
from .scoring import THRESHOLD, Scores, score_map

DEFAULT_CHECKPOINT = Path(__file__).resolve().parent.parent / 'checkpoints' / 'p_ieanet.safetensors'
MIN_SIDE, MAX_SIDE, MULTIPLE = 32, 4096, 8
WHOLE = 1 << 19  # pixels up to which the full-size arithmetic is done in one piece,
STRIP = 1 << 15  # or else in strips of this many: their temporaries stay in the processor's cache
PRECISIONS = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class ExposureMap:
    """The result for one picture.

    Attributes:
        residual: (H, W) float32 on [-1, 1] at the picture's size: (ideal grey - this grey) / 255, so + is
            under-exposed and - over-exposed.
        scores: its numbers; each is also reachable directly (`result.score`, `result.share_under` ...).
        learned_score: 0 to 10 by the predictor's score head; None without one.
    """

    residual: np.ndarray
    scores: Scores
    learned_score: float | None = None

    def __getattr__(self, name):
        if not name.startswith('_') and hasattr(Scores, name) or name in Scores.__dataclass_fields__:
            return getattr(self.scores, name)
        raise AttributeError(name)


@dataclass(frozen=True)
class Prepared:
    """A picture as the predictor needs it: small for the network, grey at full size."""

    small: np.ndarray  # (h, w, 3) uint8
    grey: np.ndarray  # (H, W) uint8


def working_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) that the network sees: the longer side about `size`, the aspect ratio kept.

    Both are multiples of 8 and at least 32; so a strip of 20000 x 30 pixels is seen as `size` x 32.
    """
    scale = size / max(height, width)
    return tuple(max(MIN_SIDE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (height, width))


class Predictor:
    """Pictures in, exposure maps out.

    Args:
        checkpoint: a file that `models.checkpoint.load_model` reads; None: checkpoints/p_ieanet.safetensors.
        device: 'auto' (a GPU when there is one), 'cpu', 'cuda', 'cuda:1' ...
        size: the longer side of what the network sees (the authors' network sees squares of 256, whatever this says).
        upsample: how the network's maps come to full size. 'guided': by the guided filter, which keeps the
            picture's edges. 'bilinear': as the authors' script does.
            None: 'guided', but 'bilinear' for the authors' network.
        radius, eps: of the guided filter, in pixels of the small picture and in squared grey on [0, 1] (measured on
            validation pictures).
        precision: 'off' (fp32; on a GPU, convolutions in TF32 unless torch.backends.cudnn.allow_tf32 is off), 'bf16' or
            'fp16' autocast.
        compile: run the network through `torch.compile` (pays off for thousands of pictures).
        threshold: |residual| from which a pixel counts as under- or over-exposed in the shares.
        max_pixels: larger files are refused.
        model: a network to use in place of a checkpoint: (B, 3, H, W) RGB in [0, 1] -> (B, 1, H, W). It is itself put in eval mode, on
            the device and in channels_last layout, and told `ideal`: give a copy of one that is still in training, or serves others.
        score_head: a file of `train_wavelet.py --score-head`, for `learned_score`; it belongs to the weights it was trained with, which is
            checked where these come from a file.
        ideal: 'photograph', as a photographer exposes, or 'fusion', as a bracket's frames are merged; 'auto': as the picture looks
            (:func:`models.p_ieanet.set_ideal`, which changes the network). None: as the network was told before, at first 'auto'.

    Raises:
        CheckpointError (a ValueError): the weights cannot be read, or the score head is of others; one line with the file's name.
        ValueError: an argument out of range, or a device that is not there.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device = 'auto',
        size: int = 256,
        upsample: str | None = None,
        radius: int = 2,
        eps: float = 1e-5,
        precision: str = 'off',
        compile: bool = False,
        threshold: float = THRESHOLD,
        max_pixels: int = MAX_PIXELS,
        model: torch.nn.Module | None = None,
        score_head: str | os.PathLike | None = None,
        ideal: str | None = None,
    ):
        if not MIN_SIDE <= size <= MAX_SIDE:
            raise ValueError(f'size must be {MIN_SIDE} to {MAX_SIDE}, but is {size}')
        if not 0 < threshold < 1:
            raise ValueError(f'threshold must be in (0, 1), but is {threshold}')
        if radius != int(radius) or radius < 1 or not 0 < eps < np.inf:
            raise ValueError(f'radius must be a whole number from 1 on and eps above 0, but they are {radius} and {eps}')
        if score_head is not None and ideal not in (None, 'auto'):
            raise ValueError(f"a score head has learned maps of ideal 'auto', but ideal is {ideal!r}")
        if upsample not in (None, 'guided', 'bilinear'):
            raise ValueError(f"upsample must be 'guided' or 'bilinear', but is {upsample!r}")
        if precision not in PRECISIONS:
            raise ValueError(f'precision must be one of {sorted(PRECISIONS)}, but is {precision!r}')
        if model is not None and checkpoint is not None:
            raise ValueError(f'either a checkpoint or a model, but both are given ({checkpoint})')
        self.device = pick_device(device)
        weights = None
        if model is None:
            weights = checkpoint or DEFAULT_CHECKPOINT
            model = load_model(weights, self.device)
        set_ideal(model, ideal)
        self.model = model.to(self.device).eval()
        released = isinstance(model, ReleasedWaveletNet)
        if not released:  # which chooses its own memory layout
            self.model.to(memory_format=torch.channels_last)  # a sixth faster, measured on the CPU
        self.square = released  # the authors' weights were trained on, and only make sense at, squares of 256
        self.size = 256 if released else size
        self.upsample = upsample or ('bilinear' if released else 'guided')
        self.precision = PRECISIONS[precision]
        self.threshold, self.max_pixels = threshold, max_pixels
        self.score_head = None if score_head is None else load_score_head(score_head, weights)
        self.radius, self.eps = int(radius), eps
        self.network = self.model
        if compile:
            self.network = torch.compile(self.network, dynamic=True)

    def predict(self, picture: 'Picture') -> ExposureMap:
        """The map of one picture: a path, a PIL picture of any mode, an array or a tensor.

        Arrays are (H, W, 3) uint8 RGB, tensors (3, H, W) floating point RGB on [0, 1] (taken at 8 bit).

        Raises:
            ImageError (a ValueError): the file cannot be read as a picture; one line with its name.
            ValueError: an array or tensor of another shape, type or range.
        """
        return self.predict_batch([picture])[0]

    def predict_batch(self, pictures, batch_size: int = 16) -> list[ExposureMap]:
        """The maps of pictures of any sizes; those with the same working size go through together."""
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, but is {batch_size}')
        if isinstance(pictures, (str, os.PathLike)):
            raise ValueError(f'predict_batch takes a list of pictures, but was given {pictures!r}; predict takes one')
        items = [self.prepare(self.read(picture)) for picture in pictures]
        groups = {}
        for place, item in enumerate(items):
            groups.setdefault(item.small.shape, []).append(place)
        results = [None] * len(items)
        for places in groups.values():
            for start in range(0, len(places), batch_size):
                part = places[start : start + batch_size]
                fields = self.fields([items[place].small for place in part])
                for place, field in zip(part, fields):
                    residual = self.finish(items[place], field)
                    results[place] = ExposureMap(residual, score_map(residual, self.threshold), self.learned(residual, items[place].grey))
        return results

    def learned(self, residual: np.ndarray, grey: np.ndarray) -> float | None:
        """The score head's answer for a map and its picture's grey; None without a head."""
        if self.score_head is None:
            return None
        with torch.inference_mode():
            return self.score_head(torch.from_numpy(map_statistics(residual, grey))[None]).item()

    # The steps, for pipelines that overlap them (make_heatmap.py). All may be called from several threads.

    def read(self, picture: 'Picture') -> Image.Image:
        """Anything that `predict` takes as 8-bit sRGB."""
        if torch.is_tensor(picture):
            picture = tensor_to_array(picture)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                raise ValueError(f'an array must be (H, W, 3) uint8 RGB, but is {picture.shape} {picture.dtype}')
            return Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            return convert_image(picture)
        return read_image(picture, self.max_pixels)

    def prepare(self, picture: Image.Image) -> Prepared:
        """Step 1: an RGB picture at the network's size, and its grey."""
        width, height = picture.size
        size = (self.size, self.size) if self.square else working_size(height, width, self.size)
        return Prepared(resize_pixels(to_pixels(picture), *size), np.asarray(picture.convert('L')))

    def fields(self, smalls: list[np.ndarray]) -> list[np.ndarray]:
        """Step 2, the network: (h, w, 3) uint8 pictures of one size to (h, w) float32 residuals."""
        x = torch.from_numpy(np.stack(smalls)).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        half = contextlib.nullcontext()
        if self.precision is not None:
            half = torch.autocast(self.device.type, self.precision)
        with torch.inference_mode(), half:
            y = self.network(x)[:, 0].float().cpu().numpy()
        if not np.isfinite(y).all():
            raise FloatingPointError('the network gave values that are not finite')
        return list(y)

    def finish(self, item: Prepared, field: np.ndarray) -> np.ndarray:
        """Step 3: the network's residual of one picture at full size, (H, W) float32 on [-1, 1]."""
        guided, maps = self.upsample == 'guided', field[None]
        if guided:
            maps = guided_coefficients(cv2.cvtColor(item.small, cv2.COLOR_RGB2GRAY), field, self.radius, self.eps)
            maps[0] += 1  # of the ideal's grey
        residual = np.empty(item.grey.shape, np.float32)
        for top, bottom, maps in upsampled_strips(maps, *item.grey.shape):
            if guided:
                grey = item.grey[top:bottom].astype(np.float32)
                slope, ideal = maps
                cv2.accumulateProduct(slope, grey, ideal)
                np.clip(ideal, 0, 255, out=ideal)
                part = cv2.subtract(ideal, grey, dst=residual[top:bottom])
                part *= 1 / 255
            else:
                np.clip(maps[0], -1, 1, out=residual[top:bottom])
        return residual


Picture = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


def tensor_to_array(x: torch.Tensor) -> np.ndarray:
    """(3, H, W) on [0, 1] -> (H, W, 3) uint8."""
    if x.ndim != 3 or x.shape[0] != 3 or not x.numel() or not x.is_floating_point():
        raise ValueError(f'a tensor must be (3, H, W) floating point RGB, but is {tuple(x.shape)} {x.dtype}')
    low, high = x.min().item(), x.max().item()
    if not (0 <= low and high <= 1):  # also where one of them is not a number
        raise ValueError(f'a tensor must lie on [0, 1], but is on [{low:g}, {high:g}]')
    return (x.detach().float() * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def pick_device(device: str | torch.device) -> torch.device:
    """'auto' is a GPU when there is one. ValueError when the device is not there or of a kind that is not tested."""
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    known = f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', but is {str(device)!r}"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(known) from error
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(known)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'device {device} is not there: torch sees {torch.cuda.device_count()} CUDA devices')
    return device


def guided_coefficients(guide: np.ndarray, residual: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """a and b of the guided filter, such that 255 residual = a * guide + b around each pixel, edges of the guide kept.

    Args:
        guide: (h, w) uint8. residual: (h, w) float32 on [-1, 1].
        radius: the windows are squares of 2 * radius + 1 pixels.
        eps: variance of the guide, on [0, 1], below which a window counts as flat.

    Returns:
        (2, h, w) float32: slope and offset.
    """

    def blur(plane, out=None):
        return cv2.blur(plane, (2 * radius + 1, 2 * radius + 1), dst=out)

    guide, residual = guide.astype(np.float32) - 128, residual * 255  # about 0, or the differences of squares below lose digits
    mean_guide, mean = blur(guide), blur(residual)
    residual *= guide
    guide *= guide
    slope = blur(residual)
    slope -= mean_guide * mean
    variance = blur(guide)
    variance -= mean_guide * mean_guide
    variance += eps * 255 ** 2
    slope /= variance
    mean_guide += 128
    mean_guide *= slope
    mean -= mean_guide
    found = np.empty((2, *guide.shape), np.float32)
    blur(slope, found[0])
    blur(mean, found[1])
    return found


def upsampled_strips(maps: np.ndarray, height: int, width: int):
    """Bilinear upsampling (pixel centres as torch's align_corners=False) of (K, h, w) maps, strip by strip.

    Yields (top, bottom, (K, bottom - top, width) float32), the last in a buffer that the next strip reuses.
    """
    if height * width <= WHOLE:
        large = np.empty((len(maps), height, width), np.float32)
        for plane, out in zip(maps, large):
            cv2.resize(plane, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        yield 0, height, large
        return
    if maps.shape[1] == 1:
        maps = np.repeat(maps, 2, axis=1)  # so that there is always a row below
    count, small = maps.shape[:2]
    wide = np.empty((count, small, width), np.float32)
    for plane, stretched in zip(maps, wide):
        cv2.resize(plane, (width, small), dst=stretched, interpolation=cv2.INTER_LINEAR)
    step = wide[:, 1:] - wide[:, :-1]
    centre = np.clip((np.arange(height, dtype=np.float64) + 0.5) * small / height - 0.5, 0, small - 1)
    above = np.minimum(centre.astype(np.int64), small - 2)
    weight = (centre - above).astype(np.float32)[:, None]
    rows = max(1, min(height, STRIP // width))
    values, steps = np.empty((2, count, rows, width), np.float32)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        value, towards = values[:, : bottom - top], steps[:, : bottom - top]
        np.take(wide, above[top:bottom], axis=1, out=value, mode='clip')
        np.take(step, above[top:bottom], axis=1, out=towards, mode='clip')
        towards *= weight[top:bottom]
        value += towards
        yield top, bottom, value


class Batcher:
    """Gathers small pictures from many threads into batches of one shape, for a GPU.

    Each thread calls the batcher like `Predictor.fields` of one picture and waits; whatever has come
    meanwhile is the next batch. So batches form by themselves and no thread ever waits for a batch to fill.
    """

    def __init__(self, predictor: Predictor, batch_size: int):
        self.predictor, self.batch_size = predictor, batch_size
        self.requests = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name='network', daemon=True)
        self.thread.start()

    def __call__(self, small: np.ndarray) -> np.ndarray:
        answer = Future()
        self.requests.put((small, answer))
        return answer.result()

    def close(self) -> None:
        self.requests.put(None)
        self.thread.join()

    def _work(self) -> None:
        waiting, open_ = [], True
        while open_ or waiting:
            block = not waiting
            while open_:
                try:
                    request = self.requests.get(block=block)
                except queue.Empty:
                    break
                block = False
                if request is None:
                    open_ = False
                else:
                    waiting.append(request)
            if not waiting:
                continue
            shape = waiting[0][0].shape
            batch = [request for request in waiting if request[0].shape == shape][: self.batch_size]
            taken = {id(request) for request in batch}
            waiting = [request for request in waiting if id(request) not in taken]
            try:
                for (_, answer), field in zip(batch, self.predictor.fields([small for small, _ in batch])):
                    answer.set_result(field)
            except Exception as error:  # belongs to the callers, whatever it is
                for _, answer in batch:
                    answer.set_exception(error)
