"""Which method exposes best? Same-named pictures of several methods, judged by their exposure maps.

    python -m exposure.compare ORIGINALS METHOD_A METHOD_B ... --out DIR
    python -m exposure.compare dark/ zero_dce=results/7 retinexformer=results/9 --out DIR --sheets 50

The folders hold pictures of the same names (the extension may differ). It writes, readable offline,

    DIR/index.html      a table to sort by a click on its head, and the contact sheets
    DIR/methods.csv     that table;    DIR/pictures.csv   every picture of every method
    DIR/sheets/*.png    pictures above, |residual| below on one scale, as in the paper's Fig. 8

Columns: mean |residual| with its 95 % interval (bootstrap over pictures) and its difference from the originals; mean
residual by direction (under + over = mean |residual|) and the shares of the area beyond the threshold; the score 0 to
10; wins: in how many pictures the method is the best of all methods (a tie counts in parts); and how often it is better
than the original.

Exit code: 0; 2 for a bad argument, a picture that is missing or cannot be read.
"""

import csv
import html
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from cli import Parser
from datasets.images import IMAGE_EXTENSIONS
from datasets.photographs import is_output
from models.checkpoint import atomic_write
from models.p_ieanet import IDEALS, named

from .predictor import DEFAULT_CHECKPOINT, Predictor
from .scoring import THRESHOLD

RESAMPLES = 2000
SCALE = 0.5  # |residual| of the brightest colour of the sheets
THUMB = 256  # longer side of a picture in a sheet
FIGURES = ('mean_abs_residual', 'mean_under', 'mean_over', 'share_under', 'share_over', 'score')
COLUMNS = (
    ('method', 'method', None),
    ('mean_abs_residual', 'mean |residual|', '.4f'),
    ('mean_abs_residual_lo', 'from', '.4f'),
    ('mean_abs_residual_hi', 'to', '.4f'),
    ('gain', 'less than originals', '+.4f'),
    ('gain_lo', 'from', '+.4f'),
    ('gain_hi', 'to', '+.4f'),
    ('mean_under', 'mean under', '.4f'),
    ('mean_over', 'mean over', '.4f'),
    ('share_under', 'area under', '.1%'),
    ('share_over', 'area over', '.1%'),
    ('score', 'score', '.2f'),
    ('wins', 'wins', '.4g'),
    ('better', 'better than original', '.1%'),
)


@dataclass(frozen=True)
class Method:
    """A name and its pictures: {name without extension, relative to the folder: path}."""

    name: str
    pictures: dict


def find_methods(folders: list[str], common: bool = False) -> tuple[list[Method], list[str]]:
    """The methods, originals first, and the names of the pictures, sorted. Hidden files and our heat maps are left out.

    Args:
        folders: paths, or NAME=PATH.
        common: only the pictures that all have, instead of an error.

    Raises:
        ValueError: a folder is missing or empty, two pictures or methods share a name, or a picture is missing.
    """
    methods = []
    for text in folders:
        name, path = text.split('=', 1) if '=' in text and not Path(text).is_dir() else ('', text)
        folder = Path(path)
        if not folder.is_dir():
            raise ValueError(f'{folder}: no such folder')
        pictures = {}
        for file in sorted(folder.rglob('*')):
            below = file.relative_to(folder)
            if any(part.startswith('.') for part in below.parts):
                continue
            if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file() and not is_output(file):
                key = below.with_suffix('').as_posix()
                if key in pictures:
                    raise ValueError(f'{file}: shares its name with {pictures[key]}')
                pictures[key] = file
        if not pictures:
            raise ValueError(f'{folder}: holds no pictures')
        methods.append(Method(name or folder.resolve().name, pictures))
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f'several methods are called {repeated[0]!r}: name them, NAME=PATH')
    everything = sorted(set().union(*(method.pictures for method in methods)))
    if common:
        everything = [key for key in everything if all(key in method.pictures for method in methods)]
        if not everything:
            raise ValueError('the folders have no picture in common')
    for method in methods:
        if lacking := [key for key in everything if key not in method.pictures]:
            more = f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''
            raise ValueError(f'{method.name} lacks {lacking[0]}{more}; --common takes only what all have')
    return methods, everything


def summarise(names: list[str], values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """The table's rows, the originals first.

    Args:
        names: of the methods, originals first.
        values: (methods, pictures, len(FIGURES)).

    Returns:
        A dict a method with the keys of COLUMNS; None where a figure means nothing: the originals neither win nor
        lose, and one picture gives no interval.
    """
    values = np.asarray(values, np.float64)
    error, count = values[:, :, 0], values.shape[1]
    best = error[1:] == error[1:].min(axis=0)
    wins = (best / best.sum(axis=0)).sum(axis=1)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples) / count
    rows = []
    for place, name in enumerate(names):
        row = {'method': name, **dict(zip(FIGURES, values[place].mean(axis=0).tolist()))}
        gain = error[0] - error[place]
        row.update(gain=None, better=None, wins=None)
        if place:
            row.update(gain=float(gain.mean()), better=float((gain > 0).mean()), wins=float(wins[place - 1]))
        for key, numbers in (('mean_abs_residual', error[place]), ('gain', gain if place else None)):
            low = high = None
            if numbers is not None and count > 1:
                low, high = np.quantile(draws @ numbers, (0.025, 0.975)).tolist()
            row.update({f'{key}_lo': low, f'{key}_hi': high})
        rows.append(row)
    return rows


def color_scale() -> np.ndarray:
    """(256, 3) uint8: |residual| from 0 (black) to SCALE and beyond (bright)."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)[:, 0]


def thumbnails(picture: Image.Image, residual: np.ndarray, table: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """The picture and its |residual| in colours, both no longer than THUMB."""
    scale = min(1.0, THUMB / max(picture.size))
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    absolute = cv2.resize(np.abs(residual), size, interpolation=cv2.INTER_AREA)
    index = np.rint(np.clip(absolute / SCALE, 0, 1) * 255).astype(np.uint8)
    return picture.resize(size, Image.Resampling.BOX), Image.fromarray(table[index])


def draw_sheet(columns: list[tuple], table: np.ndarray) -> Image.Image:
    """A contact sheet. `columns` are (name, picture, map, mean |residual|, best), originals first."""
    font = ImageFont.load_default(13)
    gap, head = 8, 24
    width = max(picture.width for _, picture, *_ in columns)
    height = max(picture.height for _, picture, *_ in columns)
    sheet = Image.new('RGB', (len(columns) * (width + gap) + gap, 2 * height + 2 * head + 2 * gap + 34), 'white')
    draw = ImageDraw.Draw(sheet)
    for place, (name, picture, absolute, error, best) in enumerate(columns):
        x = gap + place * (width + gap)
        draw.text((x, 5), _fit(draw, name, width, font), 'black', font)
        sheet.paste(picture, (x, head))
        sheet.paste(absolute, (x, head + height + gap))
        text = f'mean |residual| {error:.3f}' + ('  best' if best else '')
        draw.text((x, head + 2 * height + gap + 4), text, 'darkgreen' if best else 'black', font)
    y = sheet.height - 26
    ramp = np.tile(table[np.linspace(0, 255, 160).astype(int)], (12, 1, 1))
    sheet.paste(Image.fromarray(ramp), (gap + 14, y))
    draw.text((gap, y - 2), '0', 'black', font)
    draw.text((gap + 180, y - 2), f'{SCALE:g} and more: |residual|, the same scale for all', 'black', font)
    return sheet


def _fit(draw, text: str, width: int, font) -> str:
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + '…'
    return text


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
table { border-collapse: collapse }
th, td { padding: .3em .6em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th button { all: unset; cursor: pointer; font-weight: bold; white-space: normal }
th button:focus-visible { outline: 2px solid #36c } th[aria-sort=ascending] button::after { content: ' \\25b2' }
th[aria-sort=descending] button::after { content: ' \\25bc' } .scroll { overflow-x: auto }
figure { margin: 1.5em 0 } figure img { max-width: 100%; border: 1px solid #ddd } figcaption { font-weight: bold }
"""

# Cells carry their number in data-value; cells without one stay at the bottom, whichever way the column is sorted.
SCRIPT = """
function order(a, b, rising) {
  if (a === b) return 0;
  if (a === '') return 1;
  if (b === '') return -1;
  const x = Number(a), y = Number(b);
  const less = Number.isNaN(x) || Number.isNaN(y) ? (a < b ? -1 : 1) : x - y;
  return rising ? less : -less;
}
function sortBy(table, column, rising) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  rows.sort((p, q) => order(p.cells[column].dataset.value, q.cells[column].dataset.value, rising));
  rows.forEach(row => body.appendChild(row));
  Array.from(table.tHead.rows[0].cells).forEach((cell, i) =>
    cell.setAttribute('aria-sort', i === column ? (rising ? 'ascending' : 'descending') : 'none'));
}
function makeSortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => cell.addEventListener('click', () =>
    sortBy(table, column, cell.getAttribute('aria-sort') !== 'ascending')));
}
if (typeof document !== 'undefined') document.querySelectorAll('table').forEach(makeSortable);
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Exposure of {methods} methods</title><style>{style}</style></head><body>
<h1>Exposure of {methods} methods on {pictures} pictures</h1>
<p>Residual = (ideal grey - this grey) / 255, as estimated without a reference by <code>{weights}</code>; 0 is ideal.
Intervals hold 95 % of {resamples} bootstrap samples of the pictures. Area under and over: share with |residual| above
{threshold:g}. Wins: pictures in which a method has the smallest mean |residual| of all methods. Click a heading to sort.</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
<h2>Pictures</h2>
<p>{shown} Pictures above, |residual| below: black is ideal, bright is {scale:g} and more.</p>
{sheets}
<script>{script}</script></body></html>
"""


def render_page(rows: list[dict], sheets: list[tuple[str, str]], **about) -> str:
    """index.html. `sheets` are (name of the picture, relative path of its PNG); `about` fills PAGE."""
    head = ''.join(f'<th aria-sort="none" scope="col"><button>{html.escape(title)}</button></th>' for _, title, _ in COLUMNS)
    lines = []
    for row in rows:
        cells = []
        for key, _, form in COLUMNS:
            value = row[key]
            shown = '' if value is None else value if form is None else format(value, form)
            data = '' if value is None else value if form is None else repr(float(value))
            cells.append(f'<td data-value="{html.escape(data)}">{html.escape(shown)}</td>')
        lines.append(f'<tr>{"".join(cells)}</tr>')
    figures = '\n'.join(
        f'<figure><figcaption>{html.escape(name)}</figcaption>'
        f'<img loading="lazy" src="{html.escape(path)}" alt="{html.escape(name)} by every method and its residual"></figure>'
        for name, path in sheets)
    about = {key: html.escape(value) if isinstance(value, str) else value for key, value in about.items()}
    return PAGE.format(style=STYLE, script=SCRIPT, head=head, rows='\n'.join(lines), sheets=figures, scale=SCALE, **about)


def compare(methods: list[Method], names: list[str], predictor: Predictor, out: Path, sheets: int = 24,
            resamples: int = RESAMPLES, weights: str = '', quiet: bool = False) -> list[dict]:
    """Judge all pictures and write the report; returns the table's rows.

    Args:
        methods, names: of :func:`find_methods`.
        sheets: how many contact sheets, evenly over the pictures.

    Raises:
        ImageError (a ValueError): a picture cannot be read.
    """
    (out / 'sheets').mkdir(parents=True, exist_ok=True)
    drawn = set(np.linspace(0, len(names) - 1, min(sheets, len(names))).round().astype(int).tolist()) if sheets else set()
    table, values, shown = color_scale(), np.zeros((len(methods), len(names), len(FIGURES))), []
    for place, name in enumerate(tqdm(names, unit='picture', disable=quiet or None)):
        columns = []
        for which, method in enumerate(methods):
            picture = predictor.read(method.pictures[name])
            result = predictor.predict(picture)
            values[which, place] = [getattr(result.scores, key) for key in FIGURES]
            if place in drawn:
                columns.append((method.name, *thumbnails(picture, result.residual, table), result.mean_abs_residual))
        if columns:
            least = min(column[3] for column in columns[1:])
            columns = [(*column, i > 0 and column[3] == least) for i, column in enumerate(columns)]
            data = io.BytesIO()
            draw_sheet(columns, table).save(data, 'PNG')
            # Numbered, so that a/b and a_b, or names that no URL likes, cannot meet.
            path = f'sheets/{place:05d}.png'
            atomic_write(out / path, data.getvalue())
            shown.append((name, path))
    rows = summarise([method.name for method in methods], values, resamples)
    atomic_write(out / 'methods.csv', _csv([key for key, _, _ in COLUMNS], rows))
    details = [{'picture': name, 'method': method.name, **dict(zip(FIGURES, values[m, n].tolist()))}
               for n, name in enumerate(names) for m, method in enumerate(methods)]
    atomic_write(out / 'pictures.csv', _csv(['picture', 'method', *FIGURES], details))
    some = 'All pictures.' if len(shown) == len(names) else f'{len(shown)} of {len(names)} pictures, evenly chosen.'
    page = render_page(rows, shown, methods=len(methods) - 1, pictures=len(names), weights=weights, resamples=resamples,
                       threshold=predictor.threshold, shown=some)
    atomic_write(out / 'index.html', page.encode('utf-8', 'replace'))
    return rows


def _csv(names: list[str], rows: list[dict]) -> bytes:
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows([{key: round(v, 6) if isinstance(v, float) else v for key, v in row.items()} for row in rows])
    return text.getvalue().encode('utf-8', 'surrogateescape')  # a file name of other bytes


def main(argv=None) -> int:
    parser = Parser(prog='python -m exposure.compare', description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('originals', help='folder of the pictures before')
    add('methods', nargs='+', metavar='METHOD', help='folder of the pictures after, or NAME=folder')
    add('--out', type=Path, required=True, metavar='DIR', help='write the report there')
    add('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT, metavar='F', help='weights that judge')
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    add('--ideal', choices=IDEALS, default='auto', help='what the weights take for ideal, see make_heatmap.py')
    add('--sheets', type=int, default=24, metavar='N', help='contact sheets, default 24; 0 for none')
    add('--resamples', type=int, default=RESAMPLES, metavar='N', help=f'of the bootstrap, default {RESAMPLES}')
    add('--threshold', type=float, default=THRESHOLD, metavar='T', help=f'of the shares of the area, default {THRESHOLD}')
    add('--common', action='store_true', help='only the pictures that all folders have')
    add('--json', action='store_true', help='print the table as JSON')
    args = parser.parse_args(argv)
    if args.sheets < 0 or args.resamples < 1:
        parser.error('--sheets must be at least 0 and --resamples at least 1')
    if not 0 < args.threshold < 1:
        parser.error(f'argument --threshold: must be in (0, 1), but is {args.threshold}')
    try:
        methods, names = find_methods([args.originals, *args.methods], args.common)
        out = args.out.resolve()
        if inside := next((m.name for m in methods for f in m.pictures.values() if out in f.resolve().parents), None):
            raise ValueError(f'--out {args.out} holds pictures of {inside}: give the report a folder of its own')
        predictor = Predictor(args.checkpoint, args.device, threshold=args.threshold, ideal=args.ideal)
        rows = compare(methods, names, predictor, args.out, args.sheets, args.resamples,
                       named(args.checkpoint.name, args.ideal))
    except (ValueError, OSError) as error:
        parser.error(' '.join(str(error).split()))
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            wins = '' if row['wins'] is None else f'  wins {row["wins"]:g} of {len(names)}'
            print(f'{row["method"]:20}  mean |residual| {row["mean_abs_residual"]:.4f}  score {row["score"]:.2f}{wins}')
    print(args.out / 'index.html', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
