"""exposure.compare: the right winner, honest intervals, a page that needs nothing from elsewhere."""
import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.photographs import OUTPUTS
from exposure import compare, heatmap
from exposure.compare import FIGURES, find_methods, main, summarise
from models.grey import luma

ROOT = Path(__file__).resolve().parent.parent


class Grey(torch.nn.Module):
    """A judge whose ideal is mid-grey everywhere."""

    def forward(self, x):
        return 0.5 - luma(x)


@pytest.fixture
def folders(tmp_path):
    """Three pictures: dark originals, a method that is right, one that is too bright, one that changes nothing."""
    random = np.random.default_rng(0)
    for name, level in (('before', 40), ('right', 127), ('bright', 230), ('same', 40)):
        for i in range(3):
            pixels = (level + random.integers(-8, 9, (48, 64 + 8 * i, 3))).astype(np.uint8)
            path = tmp_path / name / f'sub & <b>/p{i}.{"png" if name == "before" else "webp"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, lossless=True)
    return tmp_path


@pytest.fixture
def report(folders):
    methods, names = find_methods([str(folders / n) for n in ('before', 'right', 'bright', 'same')])
    predictor = compare.Predictor(model=Grey(), device='cpu')
    return compare.compare(methods, names, predictor, folders / 'out', weights='grey', quiet=True), folders / 'out'


def test_the_right_method_wins(report):
    rows = {row['method']: row for row in report[0]}
    assert list(rows) == ['before', 'right', 'bright', 'same']
    assert [rows[n]['wins'] for n in rows] == [None, 3, 0, 0]
    assert rows['right']['better'] == 1 and rows['right']['gain'] > 0.2
    assert rows['bright']['mean_over'] > 0.3 and rows['bright']['mean_under'] < 0.01 and rows['bright']['share_over'] == 1
    assert rows['before']['mean_under'] > 0.3 and rows['before']['share_under'] == 1
    for row in rows.values():
        assert row['mean_under'] + row['mean_over'] == pytest.approx(row['mean_abs_residual'])
        assert row['score'] == pytest.approx(10 * (1 - row['mean_abs_residual']))
        assert row['mean_abs_residual_lo'] <= row['mean_abs_residual'] <= row['mean_abs_residual_hi']


def test_tables(report):
    rows, out = report
    table = list(csv.DictReader((out / 'methods.csv').open(encoding='utf-8')))
    assert [line['method'] for line in table] == [row['method'] for row in rows]
    pictures = list(csv.DictReader((out / 'pictures.csv').open(encoding='utf-8')))
    assert len(pictures) == 12
    mean = np.mean([float(p['mean_abs_residual']) for p in pictures if p['method'] == 'bright'])
    assert mean == pytest.approx(rows[2]['mean_abs_residual'], abs=1e-5)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open, self.bold = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.bold += tag == 'b'
        self.sources += [v for k, v in attributes if k in ('src', 'href')]
        if tag not in ('meta', 'img', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(report):
    _, out = report
    text = (out / 'index.html').read_text(encoding='utf-8')
    page = Page()
    page.feed(text)
    assert page.open == [] and page.bold == 0  # the folder's name is text, not markup
    assert len(page.sources) == 3 and not re.search(r'https?:|//[a-z]|@import|url\(', text)
    for source in page.sources:
        with Image.open(out / source) as sheet:
            assert sheet.format == 'PNG' and sheet.width > 4 * 64 and sheet.height > 2 * 48
    assert 'sub &amp; &lt;b&gt;/p0' in text


def test_sheet_shows_residuals_on_one_scale(report):
    _, out = report
    with Image.open(out / 'sheets' / '00000.png') as sheet:
        pixels = np.asarray(sheet.convert('RGB'), int)
    x = [8 + i * (64 + 8) + 30 for i in range(4)]
    maps = [pixels[24 + 48 + 8 + 24, column].sum() for column in x]
    assert maps[1] < 100 < maps[0] and abs(maps[0] - maps[3]) < 60 and maps[2] > maps[0]  # .0, .34, .40 and .34 again


@pytest.mark.skipif(shutil.which('node') is None, reason='node is not installed')
def test_table_sorts(report, tmp_path):
    stub = '''
    const make = values => ({cells: values.map(v => ({dataset: {value: v}}))});
    const head = [0, 1].map(() => ({state: 'none', f: null, getAttribute() { return this.state; },
      setAttribute(_, v) { this.state = v; }, addEventListener(_, f) { this.f = f; }}));
    const body = {rows: [['b', '10'], ['a', '9'], ['c', '-1.5'], ['d', '']].map(make),
      appendChild(row) { this.rows.splice(this.rows.indexOf(row), 1); this.rows.push(row); }};
    const table = {tBodies: [body], tHead: {rows: [{cells: head}]}};
    makeSortable(table);
    const seen = [];
    for (const column of [1, 1, 0, 0]) {
      head[column].f();
      seen.push(body.rows.map(r => r.cells[0].dataset.value).join('') + ' ' + head.map(h => h.state).join(' '));
    }
    console.log(JSON.stringify(seen));
    '''
    script = re.search(r'<script>(.*)</script>', (report[1] / 'index.html').read_text(encoding='utf-8'), re.S).group(1)
    path = tmp_path / 'sort.js'
    path.write_text(script + stub)
    result = subprocess.run(['node', str(path)], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == ['cabd none ascending', 'bacd none descending', 'abcd ascending none',
                                         'dcba descending none']


def test_heat_maps_and_hidden_files_are_no_pictures(folders):
    expected = find_methods([str(folders / 'before'), str(folders / 'right')])
    for name in (*(f'p0{end}' for end in OUTPUTS), '.p9.png', '.cache/p9.png'):
        path = folders / 'right' / 'sub & <b>' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(heatmap.encode_png(np.zeros((48, 64), np.uint8), heatmap.color_table(), '{}'))
    assert find_methods([str(folders / 'before'), str(folders / 'right')]) == expected


def test_photographs_named_like_heat_maps_are_pictures(folders):
    for method in ('before', 'right'):
        Image.new('RGB', (64, 48)).save(folders / method / 'long_exposure.png')
    methods, names = find_methods([str(folders / 'before'), str(folders / 'right')])
    assert 'long_exposure' in names and all('long_exposure' in method.pictures for method in methods)


def test_a_name_ends_at_the_first_equals_sign(folders):
    (folders / 'right').rename(folders / 'lr=1')
    methods, _ = find_methods([str(folders / 'before'), f'mine={folders / "lr=1"}', str(folders / 'lr=1')])
    assert [m.name for m in methods] == ['before', 'mine', 'lr=1']


def values_of(errors):
    values = np.zeros((*np.shape(errors), len(FIGURES)))
    values[:, :, 0] = errors
    return values


def test_ties_are_shared_and_one_picture_has_no_interval():
    rows = summarise(['o', 'a', 'b'], values_of([[0.3], [0.1], [0.1]]))
    assert [row['wins'] for row in rows] == [None, 0.5, 0.5]
    assert rows[1]['mean_abs_residual_lo'] is None and rows[1]['gain_hi'] is None


def test_interval_covers_the_truth():
    random, hits = np.random.default_rng(1), 0
    for seed in range(100):
        errors = random.gamma(4, 0.05, (2, 40))
        row = summarise(['o', 'a'], values_of(errors), 500, seed)[1]
        hits += row['mean_abs_residual_lo'] <= 0.2 <= row['mean_abs_residual_hi']
    assert 85 <= hits <= 100


def test_command(folders, weights, capsys):
    out = folders / 'report'
    code = main([str(folders / 'before'), f'mine={folders / "right"}', str(folders / 'bright'), '--out', str(out), '--checkpoint',
                 str(weights), '--device', 'cpu', '--sheets', '1', '--json'])
    rows = json.loads(capsys.readouterr().out)
    assert code == 0 and [row['method'] for row in rows] == ['before', 'mine', 'bright']
    assert len(list((out / 'sheets').iterdir())) == 1 and (out / 'index.html').is_file()


def test_errors_are_one_line(folders, weights, capsys):
    before, right = folders / 'before', folders / 'right'
    (right / 'sub & <b>' / 'p1.webp').unlink()
    copy = folders / 'again' / 'right'
    shutil.copytree(right, copy)
    shutil.copytree(before, folders / 'broken')
    (folders / 'broken' / 'sub & <b>' / 'p2.png').write_bytes(b'no picture')
    (folders / 'empty').mkdir()
    for methods, words in (([right], 'lacks sub & <b>/p1'), ([folders / 'none'], 'no such folder'), ([folders / 'empty'], 'no pictures'),
                           ([right, copy], "several methods are called 'right'"), ([folders / 'broken'], 'p2.png')):
        with pytest.raises(SystemExit) as end:
            main([str(before), *map(str, methods), '--out', str(folders / 'x'), '--checkpoint', str(weights),
                  '--device', 'cpu'])
        error = capsys.readouterr().err.strip().splitlines()
        assert end.value.code == 2 and words in error[-1], error
    with pytest.raises(SystemExit):  # its sheets would be taken for pictures the next time
        main([str(before), str(folders / 'broken'), '--out', str(before), '--checkpoint', str(weights), '--device', 'cpu'])
    assert 'a folder of its own' in capsys.readouterr().err
    methods, names = find_methods([str(before), str(right)], common=True)
    assert names == ['sub & <b>/p0', 'sub & <b>/p2']
