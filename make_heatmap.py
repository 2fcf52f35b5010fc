"""Heat maps of exposure: red over-exposed, white ideal, blue under-exposed.

    python make_heatmap.py                                  # the samples in img_to_pred/
    python make_heatmap.py photo.jpg                        # writes photo_exposure.png beside it
    python make_heatmap.py photos/ --recursive --out maps/ --csv scores.csv
    find . -name '*.jpg' | python make_heatmap.py - --out maps/
    torchrun --nproc-per-node 4 make_heatmap.py archive/ --recursive --out maps/ --csv scores.csv

What it writes:
    <name>_exposure.png          the heat map, of exactly the picture's size
    <name>_exposure.npy          --save-npy: the residual, (ideal grey - this grey) / 255, + under, - over
    <name>_exposure_overlay.png  --overlay A: the map laid over the picture
    _exposure_legend.png         once a run: the scale, in words
With --criteria, a score from 0 to 100 by a maker's rules and the reason in words stand in the tables (docs/scores.md).
Where two pictures of a folder share a stem, both keep their extension (a.jpg_exposure.png), and so does a
picture whose map would otherwise take the name of another picture that is there. Files with such names that this
program wrote are never taken as input; it knows them by the text in the PNG, so that a photograph may be called
long_exposure.png. With --out the folder tree is kept, from the common parent of all inputs downwards. Every
file gets its name only when it is complete, so an interrupted run is continued with --skip-existing; that
takes a heat map for done when it was made from the same picture and mask (name, size in bytes, time of the
last change) with the same weights and settings (they all stand in the PNG).

Exit code: 0 all done; 1 some pictures failed (listed at the end, the others are done); 2 a bad argument, or
the one picture asked for cannot be read; 130 interrupted.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import queue
import sys
import threading
import warnings
from collections import Counter
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from cli import Parser, keep_freed_memory
from datasets.images import IMAGE_EXTENSIONS, MAX_PIXELS, ImageError, read_image
from datasets.photographs import LEGEND, OUTPUTS, is_output, read_text
from exposure import heatmap
from exposure.criteria import CriteriaError, find_mask, judge, load_criteria, read_mask, shipped
from exposure.predictor import DEFAULT_CHECKPOINT, PRECISIONS, Batcher, Predictor
from exposure.scoring import THRESHOLD, score_map
from models.checkpoint import weights_id
from models.p_ieanet import IDEALS

SAMPLES = Path(__file__).resolve().parent / 'img_to_pred'
COLUMNS = ('score', 'mean_residual', 'mean_abs_residual', 'share_under', 'share_over')
CRITERIA_COLUMNS = ('criteria_score', 'criteria_label', 'criteria_why')
SHOWN = 20  # up to so many pictures are also printed one by one


@dataclasses.dataclass(frozen=True)
class Job:
    """One picture and the path of its outputs, less `_exposure.png` and the like."""

    picture: str
    target: str


@dataclasses.dataclass(frozen=True)
class Options:
    """What a worker needs to know beside the predictor."""

    settings: dict  # what the maps depend on; stored in every PNG
    range: float | str
    table: np.ndarray
    overlay: float | None
    save_npy: bool
    skip_existing: bool
    criteria: object = None  # exposure.criteria.Criteria
    mask_dir: Path | None = None
    base: str = ''  # masks lie below mask_dir as pictures below this


class PixelBudget:
    """Bounds the memory: so many pixels may be in work at once, or one picture when it alone is larger."""

    def __init__(self, limit: int):
        self.limit, self.used, self.changed = limit, 0, threading.Condition()

    def acquire(self, pixels: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + pixels <= self.limit)
            self.used += pixels

    def release(self, pixels: int) -> None:
        with self.changed:
            self.used -= pixels
            self.changed.notify_all()


def parse_args(argv):
    description = 'Heat maps of exposure: red over-exposed, white ideal, blue under-exposed.'
    parser = Parser(prog='make_heatmap.py', description=description)
    add = parser.add_argument
    add('paths', nargs='*', metavar='PATH', help="pictures or folders; '-': a list of them on standard input")
    add('--out', type=Path, metavar='DIR', help='write there, keeping the tree; default: beside each picture')
    add('--recursive', action='store_true', help='sub-folders too')
    add('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT, metavar='F', help='weights')
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    add('--batch-size', type=int, metavar='N', help='pictures per network call, default 16 on a GPU, else 1')
    add('--size', type=int, default=256, metavar='N', help="longer side that the network sees, default 256 (the authors' sees squares of 256)")
    add('--ideal', choices=IDEALS, default='auto',
        help="'photograph', as a photographer exposes; 'fusion', as a bracket's frames are merged; default auto: as the picture looks")
    add('--amp', choices=PRECISIONS, default='off', help='half precision of the network')
    add('--range', default=heatmap.DEFAULT_RANGE, metavar='R|auto',
        help='residual of the end colours, default 0.5; auto stretches each picture to its own range')
    add('--colormap', default='bwr', metavar='NAME', help="bwr, or one of matplotlib's")
    add('--overlay', type=float, metavar='A', help='also the map over the picture, opacity A in (0, 1]')
    add('--save-npy', action='store_true', help='also write the residual itself, float32')
    add('--threshold', type=float, default=THRESHOLD, metavar='T',
        help=f'|residual| from which a pixel counts in share_under and share_over, default {THRESHOLD}')
    add('--criteria', metavar='NAME|FILE', help=f"also a score by a maker's rules: {', '.join(shipped())}, or a JSON file")
    add('--mask-dir', type=Path, metavar='DIR', help='masks of the subject, named as the pictures, for --criteria')
    add('--csv', type=Path, metavar='F', help='write the scores of all pictures')
    add('--json', type=Path, metavar='F', help='the same as JSON, with settings and failures')
    add('--skip-existing', action='store_true', help='leave out what was made before of the same picture with the same settings')
    add('--max-pixels', type=int, default=MAX_PIXELS, metavar='N', help='refuse larger, default 150 million')
    add('--workers', type=int, metavar='N', help='threads; default: one per processor')
    args = parser.parse_args(argv)
    for name in ('batch_size', 'max_pixels', 'workers'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'argument --{name.replace("_", "-")}: must be at least 1, but is {value}')
    if args.overlay is not None and not 0 < args.overlay <= 1:
        parser.error(f'argument --overlay: must be in (0, 1], but is {args.overlay}')
    if not 0 < args.threshold < 1:
        parser.error(f'argument --threshold: must be in (0, 1), but is {args.threshold}')
    try:
        args.range = heatmap.check_range(args.range)
    except ValueError as error:
        parser.error(f'argument --range: {error}, but is {args.range!r}')
    try:
        args.criteria = load_criteria(args.criteria) if args.criteria is not None else None
    except CriteriaError as error:
        parser.error(f'argument --criteria: {error}')
    if args.mask_dir is not None and not args.mask_dir.is_dir():
        parser.error(f'argument --mask-dir: {args.mask_dir} is not a folder')
    if args.mask_dir is not None and not (args.criteria is not None and args.criteria.needs_subject):
        parser.error('argument --mask-dir: is for --criteria with rules that ask for a subject')
    if args.mask_dir is None and args.criteria is not None and args.criteria.needs_subject:
        parser.error(f'argument --criteria: {args.criteria.name} needs masks of the subject, --mask-dir')
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        parser.error(f'argument --out: {args.out} is not a folder')
    return args, parser


def list_inputs(paths: list[str], recursive: bool) -> tuple[list[Path], list[Path], int]:
    """All pictures in order without repetition, the roots they came from, how many of our outputs we passed.

    Raises:
        ValueError: a path on the command line that is not there.
    """
    wanted = []
    for path in paths:
        if path == '-':
            lines = sys.stdin.buffer.read().splitlines()
            wanted += [Path(os.fsdecode(line)) for line in lines if line.strip()]
        elif not os.path.lexists(path):
            raise ValueError(f'{path}: no such file or folder')
        else:
            wanted.append(Path(path))
    found, roots, own = {}, [], 0
    for path in wanted:
        folder = path.is_dir()
        roots.append(path if folder else path.parent)
        for picture in walk(path, recursive) if folder else [path]:
            if is_output(picture):
                own += 1
            else:
                found.setdefault(os.path.abspath(picture), picture)
    return list(found.values()), roots, own


def walk(folder: Path, recursive: bool):
    """The pictures in a folder by extension, sorted; hidden files and folders are left out.

    A folder that cannot be read comes last, as if it were a picture: it fails by its name, where os.walk would pass over it in silence.
    """
    unreadable = []
    for parent, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith('.')) if recursive else []
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith('.'):
                yield Path(parent, name)
    yield from unreadable


def plan(pictures: list[Path], roots: list[Path], out: Path | None) -> list[Job]:
    """Where each picture's outputs go; no two pictures share a name, and none takes a picture's."""
    base = os.path.commonpath([os.path.abspath(root) for root in roots]) if out is not None else None
    targets, whole = [], []  # the whole name where the stem is another's; where that is taken too, underscores after it
    for picture in pictures:
        folder = picture.parent
        if out is not None:
            folder = out / os.path.relpath(os.path.abspath(folder), base)
        targets.append(str(folder / picture.stem))
        whole.append(str(folder / picture.name))
    # A photograph may have the very name that another's heat map would get, be it among these pictures or not.
    taken = {os.path.abspath(picture).casefold() for picture in pictures if picture.name.endswith(OUTPUTS)}
    # Again until nothing changes: a name with its extension may be another's stem (a.jpg and a.jpg.png).
    while True:
        # Compared without case, for file systems that do not tell a.png from A.png.
        counts = Counter(target.casefold() for target in targets)
        clash = [counts[target.casefold()] > 1 and not target.startswith(name) or covers(target, taken)
                 for target, name in zip(targets, whole)]
        if not any(clash):
            return [Job(str(picture), target) for picture, target in zip(pictures, targets)]
        targets = [(target + '_' if target.startswith(name) else name) if bad else target
                   for target, name, bad in zip(targets, whole, clash)]


def covers(target: str, taken: set[str]) -> bool:
    """Whether an output with this target would be written over one of these paths, or over a picture that is not ours."""
    paths = [os.path.abspath(target + end) for end in OUTPUTS if end != LEGEND]
    return any(path.casefold() in taken or is_somebodys(path) for path in paths)


def is_somebodys(path: str) -> bool:
    """Whether a whole picture that we did not write is there. A damaged one may be ours, cut short, and is made anew."""
    if not os.path.isfile(path) or is_output(path):
        return False
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:  # damaged data makes decoders raise nearly any type
        return False
    return True


def atomic_write(path: Path, data: bytes) -> None:
    """All or nothing: under a temporary name in the same folder first. A device or a pipe is written to as it is.

    The temporary name follows from the final one and is short: a run that continues a killed one writes over
    what that left behind, and a picture whose name is just not too long is not made too long.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f'.{digest}.exposure.tmp')
    try:
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # with the name that the user knows


def identify(picture: str | os.PathLike) -> dict | None:
    """What tells a picture, or its mask, from others with its stem and from its own later versions; None: it cannot be looked at.

    Without its folder: maps are passed on, and an archive may move.
    """
    try:
        stat = os.stat(picture)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    return {'name': os.path.basename(picture), 'bytes': stat.st_size, 'mtime_ns': stat.st_mtime_ns}


def finished(job: Job, options: Options, source: dict | None) -> dict | None:
    """The scores of a picture whose outputs are all there already, made from it with these settings; else None."""
    if source is None:
        return None
    stored = [(Path(job.target + '_exposure.png'), options.settings)]
    if options.overlay is not None:
        stored.append((Path(job.target + '_exposure_overlay.png'), overlay_settings(options)))
    texts = []
    for path, settings in stored:
        try:
            text = json.loads(read_text(path) or '{}')
        except json.JSONDecodeError:
            return None
        if not isinstance(text, dict) or 'picture' not in text:
            return None
        if text.get('settings') != settings or text.get('source') != source:
            return None
        texts.append(text)
    # A residual says nothing about itself: the heat map says whether it was written with it.
    if options.save_npy and not (texts[0].get('npy') and Path(job.target + '_exposure.npy').exists()):
        return None
    return texts[0]['picture']


def overlay_settings(options: Options) -> dict:
    return {**options.settings, 'overlay': options.overlay}


def describe(settings: dict, row: dict, source: dict | None, npy: bool) -> str:
    """What is stored in each PNG, and what `finished` looks for."""
    return json.dumps({'settings': settings, 'source': source, 'npy': npy, 'picture': row})


def draw(job: Job, predictor: Predictor, network, options: Options, budget: PixelBudget) -> dict:
    """One picture, from file to files. Returns its scores.

    Raises:
        ImageError: it cannot be read. OSError: the result cannot be written.
    """
    source = identify(job.picture)  # before it is read: when it is replaced meanwhile, the map is not taken for the new one's
    mask_path = None
    if options.criteria is not None and options.criteria.needs_subject:
        mask_path = find_mask(options.mask_dir, job.picture, options.base)
        source = source and {**source, 'mask': identify(mask_path)}
    if options.skip_existing and (row := finished(job, options, source)) is not None:
        return row
    held = []

    def reserve(pixels):
        budget.acquire(pixels)
        held.append(pixels)

    try:
        item = predictor.prepare(read_image(job.picture, predictor.max_pixels, reserve))
        residual = predictor.finish(item, network(item.small))
        scores = dataclasses.asdict(score_map(residual, predictor.threshold))
        row = {'width': residual.shape[1], 'height': residual.shape[0]}
        row.update((name, round(scores[name], 6)) for name in COLUMNS)
        if options.criteria is not None:
            mask = None if mask_path is None else read_mask(mask_path, residual.shape)
            judgement = judge(residual, options.criteria, item.grey, mask)
            row.update(zip(CRITERIA_COLUMNS, (judgement.score, judgement.label, judgement.why)))
        index = heatmap.to_index(residual, options.range)
        os.makedirs(os.path.dirname(job.target) or '.', exist_ok=True)
        if options.save_npy:
            data = io.BytesIO()
            np.save(data, residual)
            atomic_write(Path(job.target + '_exposure.npy'), data.getbuffer())
        del residual
        if options.overlay is not None:
            pixels = heatmap.overlay(item.grey, index, options.table, options.overlay)
            data = heatmap.encode_overlay(pixels, describe(overlay_settings(options), row, source, options.save_npy))
            atomic_write(Path(job.target + '_exposure_overlay.png'), data)
        # The heat map comes last: where it is, the rest is.
        data = heatmap.encode_png(index, options.table, describe(options.settings, row, source, options.save_npy))
        atomic_write(Path(job.target + '_exposure.png'), data)
        return row
    finally:
        budget.release(sum(held))


def run(jobs: list[Job], predictor: Predictor, options: Options, workers: int, batch_size: int, quiet: bool):
    """All pictures through a few threads: ([row or None], [reason or None]), in the order of the jobs.

    Each thread takes a picture from file to files, so the pictures in memory are as many as the threads, and
    decoding, network and encoding of different pictures overlap: all three let go of Python's lock. On a CPU
    each thread runs the network by itself, on one core; for a GPU the threads' pictures are gathered into
    batches.
    """
    rows, reasons = [None] * len(jobs), [None] * len(jobs)
    todo, done, stop = iter(range(len(jobs))), queue.SimpleQueue(), threading.Event()
    lock = threading.Lock()
    budget = PixelBudget(min(max(64_000_000, 16_000_000 * workers), 256_000_000))
    batcher = Batcher(predictor, batch_size) if batch_size > 1 else None
    network = batcher or (lambda small: predictor.fields([small])[0])

    def work():
        while not stop.is_set():
            with lock:
                place = next(todo, None)
            if place is None:
                break
            job = jobs[place]
            try:
                rows[place] = draw(job, predictor, network, options, budget)
            except ImageError as error:
                reasons[place] = str(error)
            except CriteriaError as error:
                message = str(error)
                reasons[place] = message if job.picture in message else f'{job.picture}: {message}'
            except OSError as error:
                reasons[place] = f'{job.picture}: cannot write {error.filename} ({error.strerror or error})'
            except MemoryError:
                reasons[place] = f'{job.picture}: not enough memory'
            except Exception as error:  # one picture's trouble, whatever it is, must not end the others' work
                message = ' '.join(str(error).split())
                reasons[place] = f'{job.picture}: unexpected {type(error).__name__}: {message}'
            done.put(place)
        done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(jobs)))]
    bar = tqdm(total=len(jobs), unit='picture', disable=quiet or None, smoothing=0.05)
    for thread in threads:
        thread.start()
    try:
        alive = len(threads)
        while alive:
            if done.get() is None:
                alive -= 1
            else:
                bar.update()
    finally:  # also on Ctrl-C: let each thread finish its picture
        stop.set()
        for thread in threads:
            thread.join()
        if batcher is not None:
            batcher.close()
        bar.close()
    return rows, reasons


def write_tables(args, jobs: list[Job], rows: list, reasons: list, settings: dict) -> None:
    table = [
        {'picture': job.picture, 'heatmap': job.target + '_exposure.png', **row}
        for job, row in zip(jobs, rows)
        if row is not None
    ]
    if args.csv is not None:
        text = io.StringIO(newline='')
        names = ('picture', 'heatmap', 'width', 'height', *COLUMNS, *(CRITERIA_COLUMNS if args.criteria else ()))
        writer = csv.DictWriter(text, names, lineterminator='\n')
        writer.writeheader()
        writer.writerows(table)
        atomic_write(args.csv, os.fsencode(text.getvalue()) if os.name != 'nt' else text.getvalue().encode())
    if args.json is not None:
        failures = [{'picture': job.picture, 'reason': why} for job, why in zip(jobs, reasons) if why]
        content = {'settings': settings, 'pictures': table, 'failures': failures}
        atomic_write(args.json, (json.dumps(content, indent=1) + '\n').encode())


def printable(text: str) -> str:
    """One line, whatever bytes a file name holds."""
    encoding = sys.stdout.encoding or 'utf-8'
    return text.replace('\n', '\\n').encode(encoding, 'backslashreplace').decode(encoding)


def report(jobs: list[Job], rows: list, reasons: list, own: int) -> None:
    done = [(job, row) for job, row in zip(jobs, rows) if row is not None]
    try:
        for job, row in done if len(jobs) <= SHOWN else []:
            print(f'{printable(job.target)}_exposure.png  score {row["score"]:.2f}',
                  f'mean residual {row["mean_residual"]:+.3f}',
                  f'under {row["share_under"]:.0%}  over {row["share_over"]:.0%}', sep='  ')
            if 'criteria_why' in row:
                print(f"    {printable(row['criteria_why'])}")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read on (head, less) has seen enough; the maps are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if own:
        print(f'left out {own} files that are heat maps or legends already (*_exposure*.png)', file=sys.stderr)
    failures = [printable(why) for why in reasons if why is not None]
    print(f'{len(done)} of {len(jobs)} pictures done', file=sys.stderr)
    if failures:
        print(f'{len(failures)} failed:', *failures, sep='\n  ', file=sys.stderr)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def join_processes():
    """(rank, world size, torch.distributed or None): under torchrun the processes share the pictures."""
    rank, world = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    if world == 1:
        return 0, 1, None
    if 'MASTER_ADDR' not in os.environ:
        raise ValueError('RANK and WORLD_SIZE are set, but not MASTER_ADDR: start them with torchrun')
    import torch.distributed as dist

    # Processes wait for each other only at the end, and then as long as the slowest takes.
    dist.init_process_group('gloo', timeout=timedelta(days=30))
    return rank, world, dist


def prepare(args):
    """(jobs, the folder that holds all inputs, number of our own outputs among them); the tables' folders are made.

    Raises:
        ValueError, OSError: nothing to do, or a table that could not be written in the end.
    """
    pictures, roots, own = list_inputs(args.paths or [str(SAMPLES)], args.recursive)
    if not pictures and not own:
        where = ', '.join(args.paths) or str(SAMPLES)
        hint = '' if args.recursive else '; --recursive looks into sub-folders'
        raise ValueError(f'no pictures in {where} ({", ".join(sorted(IMAGE_EXTENSIONS))}{hint})')
    if args.csv is not None and args.json is not None and os.path.abspath(args.csv) == os.path.abspath(args.json):
        raise ValueError(f'{args.csv}: is named for both --csv and --json')
    for path in (args.csv, args.json):
        if path is not None:
            if path.suffix.lower() in IMAGE_EXTENSIONS:
                raise ValueError(f'{path}: is named like a picture, and would be overwritten with a table')
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() or not os.access(path.parent, os.W_OK):
                raise ValueError(f'{path}: cannot be written, {"a folder" if path.is_dir() else "its folder is read-only"}')
    return plan(pictures, roots, args.out), common_folder(roots), own


def main(argv=None) -> int:
    args, parser = parse_args(argv)
    warnings.filterwarnings('ignore', module='PIL')  # what is wrong with a picture is reported in one place
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    if args.device == 'auto' and torch.cuda.is_available():
        args.device = f'cuda:{local_rank % torch.cuda.device_count()}'
    try:
        table = heatmap.color_table(args.colormap)
        predictor = Predictor(
            args.checkpoint,
            args.device,
            args.size,
            precision=args.amp,
            threshold=args.threshold,
            max_pixels=args.max_pixels,
            ideal=args.ideal,
        )
        rank, world, dist = join_processes()
        plans = [None]
        if rank == 0:  # one listing for all: standard input can be read only once
            try:
                plans = [prepare(args)]
            except (ValueError, OSError) as error:  # for all processes: the others wait for the listing
                plans = [str(error)]
        if dist is not None:
            dist.broadcast_object_list(plans)
        if isinstance(plans[0], str):
            if rank > 0:
                return 2  # the first process says why
            raise ValueError(plans[0])
    except (ValueError, OSError, ImportError) as error:
        parser.error(printable(' '.join(str(error).split())))
    jobs, folder, own = plans[0]

    on_gpu = predictor.device.type == 'cuda'
    cores = max(1, processors() // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    workers = args.workers or (2 * cores if on_gpu else cores)
    batch_size = args.batch_size or (16 if on_gpu else 1)
    # One thread per picture beats many threads on one, and makes the result independent of their number.
    torch.set_num_threads(1 if batch_size == 1 or on_gpu else workers)
    cv2.setNumThreads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # --amp off is fp32
    keep_freed_memory()

    settings = {
        'weights': weights_id(args.checkpoint),
        'size': predictor.size,
        'amp': args.amp,
        'range': args.range,
        'colormap': args.colormap,
        'threshold': args.threshold,
    }
    if args.ideal != 'auto':  # maps of before, without this line, were made so
        settings['ideal'] = args.ideal
    if args.criteria is not None:
        settings['criteria'] = hashlib.sha256(repr((args.criteria, str(args.mask_dir))).encode()).hexdigest()[:16]
    options = Options(settings, args.range, table, args.overlay, args.save_npy, args.skip_existing,
                      args.criteria, args.mask_dir, str(folder))
    mine = jobs[rank::world]
    try:
        rows, reasons = run(mine, predictor, options, workers, batch_size, quiet=rank > 0)
    except KeyboardInterrupt:
        print('interrupted; the same command with --skip-existing continues', file=sys.stderr)
        return 130
    if dist is not None:
        parts = [None] * world if rank == 0 else None
        dist.gather_object((rows, reasons), parts)
        dist.destroy_process_group()
        if rank > 0:
            return 0  # the first process answers for all
        rows, reasons = [None] * len(jobs), [None] * len(jobs)
        for other, (part_rows, part_reasons) in enumerate(parts):
            rows[other::world], reasons[other::world] = part_rows, part_reasons
    try:
        write_tables(args, jobs, rows, reasons, settings)  # first: they took the time
        if any(row is not None for row in rows):
            atomic_write((args.out or folder) / LEGEND, heatmap.encode_legend(table, args.range))
    except OSError as error:
        report(jobs, rows, reasons, own)
        print(printable(f'cannot write {error.filename} ({error.strerror or error})'), file=sys.stderr)
        return 1
    report(jobs, rows, reasons, own)
    if not any(reasons):
        return 0
    return 2 if [Path(path) for path in args.paths] == [Path(jobs[0].picture)] else 1


def common_folder(roots: list[Path]) -> Path:
    """Where the legend goes when there is no --out: the common parent of all inputs."""
    if len(roots) == 1:
        return roots[0]
    return Path(os.path.commonpath([os.path.abspath(root) for root in roots]))


if __name__ == '__main__':
    sys.exit(main())
