"""The learned score: from statistics of the residual map to the score that people gave (paper, section 5.2, with fine-tuning).

    python train_wavelet.py --score-head head.safetensors --init checkpoints/p_ieanet.safetensors --data sets/spaq --train-csv sets/spaq/train.csv
    Predictor(score_head='head.safetensors').predict('photo.jpg').learned_score

sets/spaq is made of SPAQ as published by `python -m datasets.spaq`. The exposure network is frozen: each picture's map is computed once and
summed up in some forty numbers, and only the head is trained, in seconds. A head belongs to the weights whose maps it has seen; trained on
scores that are derived from labels (as `datasets.build` writes them) it learns what the map systematically misses, and nothing about people.
"""
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save as serialize
from torch import nn
from tqdm import tqdm

from datasets.iea40k import read_csv
from models.checkpoint import CheckpointError, atomic_write, load_weights, read_header, weights_id

from .scoring import zone_shares

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)  # of the shares, which together are the residual's histogram
BLOCKS = (2, 4, 8)  # grids whose lowest, highest and most typical means are taken
COUNT = 4 + 2 * len(THRESHOLDS) + 4 * len(BLOCKS) + 11


def map_statistics(residual: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """What a head sees of a picture.

    Args:
        residual: (H, W) float32 on [-1, 1].
        grey: (H, W) uint8, the picture's own.

    Returns:
        (COUNT,) float32: mean, mean under, mean over and standard deviation of the residual; shares of the area above each of
        THRESHOLDS, and below minus each; for each grid of BLOCKS the lowest and the highest block mean, their mean absolute value and their
        standard deviation; shares of Adams' zones 0 to 10 in the picture.

    Raises:
        ValueError: the shapes are not the same two dimensions.
    """
    if residual.ndim != 2 or residual.size == 0 or residual.shape != grey.shape:
        raise ValueError(f'residual is {residual.shape} and grey {grey.shape}, accepted: the same (H, W), not empty')
    # From a small copy, averaged over blocks: the numbers hardly depend on the picture's size, and 50 MP cost little.
    height, width = (min(side, 256) for side in residual.shape)
    small = cv2.resize(np.ascontiguousarray(residual, np.float32), (width, height), interpolation=cv2.INTER_AREA)
    under, over = np.maximum(small, 0).mean(), np.maximum(-small, 0).mean()
    numbers = [under - over, under, over, small.std()]
    for sign in (1, -1):
        numbers += [np.mean(sign * small > threshold) for threshold in THRESHOLDS]
    for blocks in BLOCKS:
        means = cv2.resize(small, (blocks, blocks), interpolation=cv2.INTER_AREA)
        numbers += [means.min(), means.max(), np.abs(means).mean(), means.std()]
    return np.array([*numbers, *zone_shares(grey)], np.float32)


def plain_score(statistics: torch.Tensor) -> torch.Tensor:
    """(B,) 10 (1 - mean |residual|), the score without a head, from (B, COUNT) statistics."""
    return 10 * (1 - statistics[:, 1] - statistics[:, 2])


class ScoreHead(nn.Module):
    """(B, COUNT) statistics -> (B,) scores on [0, 10]: the plain score and a learned correction, so few pictures cannot lead far astray."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.register_buffer('mean', torch.zeros(COUNT))
        self.register_buffer('scale', torch.ones(COUNT))
        self.layers = nn.Sequential(nn.Linear(COUNT, width), nn.GELU(), nn.Linear(width, 1))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def raw(self, statistics: torch.Tensor) -> torch.Tensor:
        """The same, not clamped: in training a score beyond the scale must still have a gradient."""
        return plain_score(statistics) + self.layers(((statistics - self.mean) / self.scale).clamp(-4, 4)).squeeze(1)

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.raw(statistics).clamp(0, 10)


def set_statistics(predictor, root: str | os.PathLike, csv: str | os.PathLike, chunk: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """((N, COUNT) statistics, (N,) scores) of a set: its pictures in root/IEA_img and img_id, score of its CSV; labels are not needed.

    Args:
        predictor: an :class:`exposure.Predictor`, whose maps are summed up.
        chunk: pictures in memory at once.

    Raises:
        DatasetError, ImageError (ValueErrors): in one line, naming the file.
    """
    rows, statistics = read_csv(csv), []
    paths = [Path(root) / 'IEA_img' / row['img_id'] for row in rows]
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit='picture', disable=None) as bar:
        for start in range(0, len(paths), chunk):
            pictures = list(pool.map(predictor.read, paths[start:start + chunk]))
            for picture, result in zip(pictures, predictor.predict_batch(pictures)):
                statistics.append(map_statistics(result.residual, np.asarray(picture.convert('L'))))
            bar.update(len(pictures))
    return torch.from_numpy(np.stack(statistics)), torch.tensor([row['score'] for row in rows])


@torch.enable_grad()
def fit_score_head(statistics: torch.Tensor, scores: torch.Tensor, seed: int = 0, steps: int = 1000, lr: float = 3e-3,
                   weight_decay: float = 0.1) -> ScoreHead:
    """A head trained on (N, COUNT) statistics and (N,) scores on [0, 10] by L1, batches of 128, cosine schedule; a few seconds.

    Raises:
        ValueError: shapes that do not fit, fewer than 10 pictures, or a score outside [0, 10].
    """
    if statistics.shape != (len(scores), COUNT) or scores.dim() != 1 or len(scores) < 10:
        raise ValueError(f'statistics are {tuple(statistics.shape)} and scores {tuple(scores.shape)}, '
                         f'accepted: (N, {COUNT}) and (N,), N >= 10')
    if not (scores.min() >= 0 and scores.max() <= 10):
        raise ValueError(f'scores are on [{scores.min():g}, {scores.max():g}], accepted: [0, 10]')
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ScoreHead()
    head.mean.copy_(statistics.mean(0))
    head.scale.copy_(statistics.std(0).clamp_min(1e-3))
    optimiser = torch.optim.AdamW(head.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(scores), (min(128, len(scores)),), generator=generator)
        loss = (head.raw(statistics[chosen]) - scores[chosen]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval()


def save_score_head(head: ScoreHead, path: str | os.PathLike, metadata: dict | None = None) -> None:
    """Write a head as safetensors, with provenance and figures as metadata."""
    tensors = {key: value.detach().float().contiguous() for key, value in head.state_dict().items()}
    header = {'network': 'score_head', 'config': json.dumps({'width': head.width}), 'metadata': json.dumps(metadata or {})}
    atomic_write(path, serialize(tensors, metadata=header))


def load_score_head(path: str | os.PathLike, weights: str | os.PathLike | None = None) -> ScoreHead:
    """The head of a file, in eval mode; ``head.provenance`` is the stored metadata.

    Args:
        weights: the network's, to make sure that they are those whose maps the head has seen (older heads do not say which).

    Raises:
        CheckpointError (a ValueError): in one line, with the file's name and the reason.
    """
    network, config, provenance = read_header(path)
    if network != 'score_head':
        raise CheckpointError(f'{path}: not a score head, but {network}')
    own = provenance.get('weights_id')
    if weights is not None and own is not None and own != (given := weights_id(weights)):
        raise CheckpointError(f'{path}: a score head of {provenance["weights"]} ({own}), not of {weights} ({given})')
    try:
        head = ScoreHead(**config)
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f'{path}: a score head with a header that cannot be used') from error
    load_weights(head, load_file(path), path)
    head.provenance = provenance
    return head.eval()
