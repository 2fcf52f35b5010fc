"""eval_benchmark.py on a tiny set: the figures, the formats, what goes wrong, and shards."""
import csv
import functools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eval_benchmark
import metrics
from datasets.iea40k import IEA40K
from metrics import methods as rows
from metrics.cost import cost
from metrics.evaluate import combine, evaluate
from metrics.report import as_csv, as_latex, read_published, tables
from metrics.summary import summarise

ROOT = Path(__file__).resolve().parent.parent
STOPS = {'N2': -2, 'P0': 0, 'P2': 2}


def write_set(root, scenes=4, suffixes=tuple(STOPS), stops=tuple(STOPS.values())):
    """A set in the IEA40K layout: smooth scenes, darkened and brightened."""
    rng = np.random.default_rng(0)
    for folder in ('IEA_img', 'label/exposure_condition', 'label/global_best'):
        (root / folder).mkdir(parents=True)
    y, x = np.mgrid[:256, :256] / 256
    lines = []
    for s in range(scenes):
        u, v, w = rng.uniform(2, 9, 3)
        light = 0.25 + 0.2 * np.sin(u * x + v * y)[..., None] * np.cos(w * x[..., None] + np.arange(3))
        ideal = np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)
        grey = np.asarray(Image.fromarray(ideal).convert('L')).astype(np.int16)
        Image.fromarray(ideal).save(root / 'label/global_best' / f's{s}.png')
        for suffix, ev in zip(suffixes, stops):
            exposed = np.rint(255 * np.clip(light * 2.0 ** (ev + 0.1), 0, 1) ** (1 / 2.2))
            picture = Image.fromarray(exposed.astype(np.uint8))
            residual = grey - np.asarray(picture.convert('L')).astype(np.int16)
            picture.save(root / 'IEA_img' / f's{s}_{suffix}.png', compress_level=1)
            np.save(root / 'label/exposure_condition' / f's{s}_{suffix}.npy', residual)
            score = 10 * (1 - np.abs(residual).mean() / 255)
            lines.append((f's{s}_{suffix}.png', f's{s}.png', f'{score:.4f}'))
    write_csv(root / 'test.csv', lines)
    return root


def write_csv(path, lines, header=('img_id', 'ref_id', 'score')):
    with open(path, 'w', newline='') as f:
        csv.writer(f).writerows([header, *lines])
    return path


def read_lines(path):
    with open(path, newline='') as f:
        return list(csv.reader(f))[1:]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('sets') / 'tiny')


@pytest.fixture(autouse=True)
def quick(monkeypatch, keep_threads):
    """Small maps are done sooner by one thread, and timing every method in every test takes its time."""
    torch.set_num_threads(1)
    monkeypatch.setattr(eval_benchmark, 'cost', functools.partial(cost, seconds=0, max_runs=3))


def run(*arguments):
    return eval_benchmark.main([str(a) for a in arguments])


def report_of(tmp_path, data, *arguments):
    out = tmp_path / 'report.json'
    code = run('--data', data, '--csv', data / 'test.csv', '--device', 'cpu', '--bootstrap', 200, *arguments,
               '--out', out)
    return code, json.loads(out.read_text())


def labels(data):
    return {p.stem: np.load(p) / 255 for p in sorted((data / 'label/exposure_condition').iterdir())}


def perfect_maps(data, folder):
    folder.mkdir()
    for stem, label in labels(data).items():
        np.save(folder / f'{stem}.npy', label.astype(np.float32))
    return folder


def figures(report):
    """Everything in a report that must not depend on the run."""
    return {k: report[k] for k in ('sets', 'rows', 'failures', 'methods')}


def test_figures_are_those_of_the_files(tmp_path, tiny):
    code, report = report_of(tmp_path, tiny, '--maps', perfect_maps(tiny, tmp_path / 'perfect'))
    assert code == 0
    assert [r['method'] for r in report['rows']] == ['perfect', 'zero', 'constant', 'auto-exposure']
    perfect, zero, constant, auto = report['rows']
    truth = labels(tiny)
    stack = np.stack(list(truth.values()))
    assert zero['mae'] == pytest.approx(np.abs(stack).mean(), abs=1e-7)
    assert zero['bias'] == pytest.approx(-stack.mean(), abs=1e-7)
    assert zero['psnr'] == pytest.approx(-10 * math.log10(np.square(stack).mean()), abs=1e-5)
    assert zero['ssim'] == pytest.approx(metrics.ssim(np.zeros_like(stack), stack).mean(), abs=1e-6)
    darkest = np.mean([np.abs(v).mean() for k, v in truth.items() if 'N2' in k])
    assert zero['ev']['-2']['mae'] == pytest.approx(darkest, abs=1e-7)
    share = report['sets'][0]['zone_pixels']
    assert sum(e * share[int(z)] for z, e in zero['zones'].items()) == pytest.approx(zero['mae'])
    greys = {p.stem: np.asarray(Image.open(p).convert('L')) / 255 for p in (tiny / 'IEA_img').iterdir()}
    expected = np.mean([np.abs(0.45 - greys[k].mean() - v).mean() for k, v in truth.items()])
    assert constant['mae'] == pytest.approx(expected, abs=1e-4)  # PIL's grey is rounded
    assert auto['mae'] < constant['mae'] < zero['mae']
    assert perfect['mae'] < 1e-7 and perfect['ssim'] == pytest.approx(1)
    assert perfect['psnr'] == metrics.pixel.MAX_PSNR
    assert perfect['acc'] == perfect['ordering'] == 1 and zero['ordering'] == 0
    assert zero['plcc'] is None and perfect['plcc'] == pytest.approx(1, abs=1e-6)
    assert zero['mae_lo'] < zero['mae'] < zero['mae_hi']
    assert zero['delta_mae'] == pytest.approx(zero['mae'] - perfect['mae'])
    assert 'p_mae' not in perfect and 0 < zero['p_mae'] <= 1
    assert report['sets'][0]['circular'] and report['sets'][0]['scenes'] == 4
    assert {'commit', 'versions', 'hardware', 'protocol'} <= set(report)
    assert report['protocol']['size'] == 256 and '11x11' in report['protocol']['ssim']


def test_the_order_of_the_csv_does_not_matter(tmp_path, tiny):
    shuffled = tmp_path / 'tiny'
    shutil.copytree(tiny, shuffled)
    lines = read_lines(tiny / 'test.csv')
    write_csv(shuffled / 'test.csv', [lines[i] for i in np.random.default_rng(3).permutation(len(lines))])
    # One by one: on some CPUs a product of matrices rounds a picture's row otherwise in another place of a batch.
    _, a = report_of(tmp_path, tiny, '--batch-size', 1)
    _, b = report_of(tmp_path, shuffled, '--batch-size', 1)
    assert a['rows'] == b['rows']


class Small(nn.Module):
    """A network with a fault on demand: brightness of the picture decides."""

    def __init__(self, fault=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fault = nn.Conv2d(3, 1, 3, padding=1), fault

    def forward(self, x):
        y = 0.1 * self.conv(x)
        bright = x.mean((1, 2, 3)) > 0.7
        if self.fault == 'raises' and bright.any():
            raise RuntimeError('too bright\nfor me')
        if self.fault == 'nan':
            y = y.masked_fill(bright[:, None, None, None], float('nan'))
        return y[..., 1:] if self.fault == 'size' else y * 255 if self.fault == 'units' else y


def test_shards_give_the_same_numbers_to_the_last_digit(tiny):
    dataset = IEA40K(tiny, tiny / 'test.csv', size=64)
    networks = [rows.from_network('a', Small().eval()), rows.from_network('b', Small('raises').eval()),
                rows.from_baseline('gamma')]
    names = [m.name for m in networks]
    whole = combine([evaluate(dataset, networks, 'tiny', batch_size=5)])
    for world in (2, 3, 5):
        parts = [evaluate(dataset, networks, 'tiny', batch_size=5, rank=r, world=world) for r in range(world)]
        together = combine(parts[::-1])
        assert (together.img_ids, together.rows) == (whole.img_ids, whole.rows)
        assert together.failures == whole.failures
        assert str(summarise(together, names)) == str(summarise(whole, names))
        for name in names:
            assert np.array_equal(together.maps[name], whole.maps[name], equal_nan=True)


@pytest.mark.parametrize('fault, reason', (
    ('raises', 'RuntimeError: too bright'), ('nan', 'NaN or infinity in 100.00%'),
    ('size', '(1, 64, 63), expected (1, 64, 64)'), ('units', '0..255 units')))
def test_a_method_that_fails_is_named_and_marked(tiny, fault, reason):
    dataset = IEA40K(tiny, tiny / 'test.csv', size=64)
    networks = [rows.from_network('good', Small().eval()), rows.from_network('bad', Small(fault).eval())]
    networks[1].network.conv.bias.data += 2.0 if fault == 'units' else 0
    measured = combine([evaluate(dataset, networks, 'tiny', batch_size=4)])
    about, (good, bad) = summarise(measured, ['good', 'bad'])
    pictures = [i for i in measured.img_ids if fault in ('size', 'units') or i.endswith('_P2.png')]
    assert [(m, i) for m, i, _ in measured.failures] == [('bad', i) for i in pictures]
    assert all(reason in r and '\n' not in r for *_, r in measured.failures)
    assert good['failed'] == 0 and bad['failed'] == len(pictures) and bad['pictures'] == 12 - len(pictures)
    if bad['pictures']:  # the rest counts, and is compared over what both did
        rest = [k for k, i in enumerate(measured.img_ids) if i not in pictures]
        assert bad['mae'] == pytest.approx(np.mean(measured.of_map('good', 'mae')[rest]))
        assert bad['delta_mae'] == pytest.approx(0, abs=1e-7)  # a failed batch runs again one by one
    else:
        assert math.isnan(bad['mae']) and 'p_mae' not in bad
    report = {'sets': [about], 'rows': [good, bad], 'cost': {}, 'protocol': {'bootstrap': 1000, 'size': 64},
              'hardware': {'device': 'x'}}
    first = tables(report)[0]
    assert [r[0] for r in first.rows] == ['good', 'bad [!]']
    assert f'bad failed on {len(pictures)} of 12' in ' '.join(first.notes)
    assert all(row == 0 for row, _ in first.best)  # a row that failed somewhere wins nothing


def test_bad_maps_of_others_are_named(tmp_path, tiny, capsys):
    folder = perfect_maps(tiny, tmp_path / 'theirs')
    (folder / 's0_N2.npy').unlink()
    np.save(folder / 's0_P0.npy', np.zeros((256, 255), np.float32))
    np.save(folder / 's0_P2.npy', np.zeros((256, 256), np.int16))
    np.save(folder / 's1_N2.npy', np.full((256, 256), np.nan, np.float32))
    (folder / 's1_P0.npy').write_text('no map')
    np.save(folder / 's1_P2_exposure.npy', np.zeros((1, 256, 256), np.float16))  # make_heatmap.py's name
    (folder / 's1_P2.npy').unlink()
    code, report = report_of(tmp_path, tiny, '--maps', f'their maps={folder}')
    assert code == 1
    reasons = {f['img_id']: f['reason'] for f in report['failures']}
    assert set(reasons) == {'s0_N2.png', 's0_P0.png', 's0_P2.png', 's1_N2.png', 's1_P0.png'}
    for img_id, part in (('s0_N2.png', 'no s0_N2.npy'), ('s0_P0.png', '(1, 256, 255)'),
                         ('s0_P2.png', 'int16'), ('s1_N2.png', 'NaN')):
        assert part in reasons[img_id]
    assert report['rows'][0]['method'] == 'their maps' and report['rows'][0]['failed'] == 5
    assert report['rows'][1]['failed'] == 0
    captured = capsys.readouterr()
    assert 'their maps [!]' in captured.out and 'their maps on s0_N2.png' in captured.err


def one_line(capsys, *parts):
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    for part in parts:
        assert str(part) in error


def test_what_is_missing_or_wrong_ends_in_one_line(tmp_path, tiny, capsys):
    good = ('--data', tiny, '--csv', tiny / 'test.csv')
    assert run('--data', tmp_path / 'nowhere', '--csv', tiny / 'test.csv') == 2
    one_line(capsys, tmp_path / 'nowhere')
    assert run('--data', tiny, '--csv', tiny / 'none.csv') == 2
    one_line(capsys, 'none.csv', 'no such file')
    empty = tmp_path / 'empty.csv'
    empty.touch()
    assert run('--data', tiny, '--csv', empty) == 2
    one_line(capsys, empty)
    assert run('--data', tiny, '--csv', write_csv(tmp_path / 'bare.csv', [])) == 2
    one_line(capsys, 'bare.csv')
    short = write_csv(tmp_path / 'short.csv', [('s0_P0.png', 's0.png')], ('img_id', 'ref_id'))
    assert run('--data', tiny, '--csv', short) == 2
    one_line(capsys, 'short.csv', 'score')
    assert run(*good, '--baseline', 'zeros') == 2
    one_line(capsys, 'zeros', 'auto-exposure')
    assert run(*good, '--checkpoint', tmp_path / 'none.safetensors') == 2
    one_line(capsys, 'none.safetensors')
    assert run(*good, '--maps', tmp_path / 'no maps') == 2
    one_line(capsys, 'no maps')
    assert run(*good, '--device', 'abacus') == 2
    one_line(capsys, 'abacus')
    assert run(*good, '--device', 'mps') == 2
    one_line(capsys, 'mps', 'cuda:N')
    with pytest.raises(SystemExit) as end:
        run(*good, '--workers', -1)
    assert end.value.code == 2
    one_line(capsys, '--workers')
    assert run(*good, '--data', tiny, '--data', tiny) == 2
    one_line(capsys, '3 --data for 1 --csv')
    assert run(*good, '--out', tmp_path) == 2
    one_line(capsys, 'is a folder')
    assert run(*good, '--plots', tiny / 'test.csv') == 2
    one_line(capsys, 'test.csv')
    assert run(*good, '--size', 16) == 2
    one_line(capsys, '--size 16')
    with pytest.raises(SystemExit):
        run(*good, '--acc-threshold', 'nan')
    one_line(capsys, '--acc-threshold: nan')
    assert run(*good, '--csv', tiny / 'test.csv') == 2
    one_line(capsys, 'a second set with the name')
    assert run(*good, '--maps', tiny, '--baseline', 'none', '--checkpoint', tiny / 'test.csv') == 2
    one_line(capsys, 'test.csv')


def test_a_full_disk_does_not_lose_the_table(tmp_path, tiny, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    common = ('--data', tiny, '--csv', tiny / 'test.csv', '--baseline', 'zero', '--maps', tiny, '--bootstrap', 0)
    for option in ('--out', '--keep'):
        assert run(*common, option, tmp_path / 'x.csv') == 2
        said = capsys.readouterr()
        line, = (line for line in said.err.splitlines() if 'No space left' in line)
        assert option in line and 'x.csv' in line
        assert 'zero' in said.out and 'MAE' in said.out
    assert not list(tmp_path.rglob('*.tmp')) and not list(tmp_path.rglob('*.npz'))


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for rank, name in (('0', 'cuda:0'), ('3', 'cuda:1')):
        monkeypatch.setenv('LOCAL_RANK', rank)
        assert [str(eval_benchmark.choose_device(d)) for d in ('auto', 'cuda', 'cuda:1', 'cpu')] == [name, name, 'cuda:1', 'cpu']


def test_a_bad_sample_ends_in_one_line_that_names_it(tmp_path, capsys):
    data = write_set(tmp_path / 'set', scenes=2)
    label = data / 'label/exposure_condition/s1_P0.npy'
    picture, out = data / 'IEA_img/s0_N2.png', tmp_path / 'out.csv'
    wrong = np.zeros((128, 256), np.int16)
    for spoil, parts in ((lambda: np.save(label, wrong), ('s1_P0.npy', '(128, 256)')),
                         (label.unlink, ('s1_P0.npy', 'no such file')),
                         (lambda: picture.write_text('no picture'), ('s0_N2.png',))):
        spoil()
        assert run('--data', data, '--csv', data / 'test.csv', '--maps', tmp_path, '--out', out) == 2
        one_line(capsys, *parts)
        assert not out.exists()


def test_processes_without_torchrun_are_one_line(tiny, capsys, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert run('--data', tiny, '--csv', tiny / 'test.csv', '--device', 'cpu') == 2
    one_line(capsys, 'eval_benchmark.py: ', 'RANK')


def test_score_column_is_circular_only_if_all_of_it_is(tmp_path, tiny):
    data = tmp_path / 'tiny'
    shutil.copytree(tiny, data)
    lines = [list(line) for line in read_lines(tiny / 'test.csv')]
    lines[3][2] = str(float(lines[3][2]) - 0.5)
    write_csv(data / 'test.csv', lines)
    dataset = IEA40K(data, data / 'test.csv', size=64)
    names = ['zero', 'constant']
    measured = combine([evaluate(dataset, [rows.from_baseline(n) for n in names])])
    about, (zero, constant) = summarise(measured, names, resamples=100)
    assert not about['circular']
    assert constant['srcc_lo'] <= constant['srcc'] <= constant['srcc_hi'] and math.isnan(zero['srcc'])
    assert constant['plcc_lo'] <= constant['plcc'] <= constant['plcc_hi']


def test_scores_over_the_valid_pixels_are_circular_too(tmp_path, tiny):
    data = tmp_path / 'tiny'
    shutil.copytree(tiny, data)
    (data / 'label/validity').mkdir()
    lines = [list(line) for line in read_lines(tiny / 'test.csv')]
    valid = np.zeros((256, 256), bool)
    valid[:64] = True
    for line in lines[1:]:  # the first has no mask
        label = np.load(data / f'label/exposure_condition/{Path(line[0]).stem}.npy')
        np.save(data / f'label/validity/{Path(line[0]).stem}.npy', valid)
        line[2] = f'{10 * (1 - np.abs(label[valid]).mean() / 255):.4f}'
    write_csv(data / 'test.csv', lines)
    dataset = IEA40K(data, data / 'test.csv', size=256)
    about, _ = summarise(combine([evaluate(dataset, [rows.from_baseline('zero')])]), ['zero'], resamples=0)
    assert about['circular']


def test_frames_of_brackets_are_ordered_by_their_number(tmp_path):
    data = write_set(tmp_path / 'stack', 3, ('F00', 'F01', 'F02', 'F03'), (-3, -1, 0, 2))
    dataset = IEA40K(data, data / 'test.csv', size=64)
    flipped = rows.Method('flipped', 'untrained', lambda x, i, s: -rows.from_baseline('constant').predict(x))
    measured = combine([evaluate(dataset, [rows.from_baseline('constant'), flipped])])
    about, (right, wrong) = summarise(measured, ['constant', 'flipped'])
    assert about['evs'] == [] and right['ev'] == {}
    assert (right['ordering'], wrong['ordering']) == (1, 0)


def test_intervals_are_over_scenes(tiny):
    """Four equal copies of every picture of a scene make nobody surer; one scene alone has no interval."""
    dataset = IEA40K(tiny, tiny / 'test.csv', size=64)
    measured = combine([evaluate(dataset, [rows.from_baseline('zero')])])
    _, (once,) = summarise(measured, ['zero'])
    _, (often,) = summarise(combine([measured] * 4), ['zero'])
    assert often['pictures'] == 4 * once['pictures']
    for key in ('mae', 'mae_lo', 'mae_hi', 'psnr_lo', 'ssim_hi'):
        assert often[key] == pytest.approx(once[key])
    dataset.rows = [r for r in dataset.rows if r['ref_id'] == 's0.png']
    _, (alone,) = summarise(combine([evaluate(dataset, [rows.from_baseline('zero')])]), ['zero'])
    assert 'mae_lo' not in alone


def test_every_format(tmp_path, tiny, capsys):
    common = ('--data', tiny, '--csv', tiny / 'test.csv', '--baseline', 'zero', 'constant', '--maps',
              perfect_maps(tiny, tmp_path / 'my_maps'), '--bootstrap', 50, '--published')
    texts = {}
    kinds = {'.csv': 'csv', '.md': 'markdown', '.tex': 'latex', '.json': 'json', '.txt': 'table'}
    for suffix, kind in kinds.items():
        out = tmp_path / f'report{suffix}'
        assert run(*common, '--out', out) == 0
        assert 'my_maps' in capsys.readouterr().out  # the terminal shows the table whatever is written
        texts[kind] = out.read_text()
    lines = list(csv.DictReader(texts['csv'].splitlines()))
    assert [r['method'] for r in lines[:3]] == ['my_maps', 'zero', 'constant']
    assert lines[0]['source'] == 'measured'
    assert float(lines[1]['mae']) == pytest.approx(json.loads(texts['json'])['rows'][1]['mae'], rel=1e-5)
    assert float(lines[1]['mae_ev-2']) > 0 and lines[1]['plcc'] == ''
    ours = [r for r in lines if r['method'] == 'P-IEANet' and r['source'] == 'published, IEA40K, table 1+7']
    assert [(r['mae'], r['ssim'], r['psnr']) for r in ours] == [('0.03', '0.75', '28.04')]
    assert '| my_maps | **0.0000** |' in texts['markdown'] and 'circular' in texts['markdown']
    assert r'\toprule' in texts['latex'] and r'my\_maps & \textbf{0.0000}' in texts['latex']
    assert texts['latex'].count('{table}') % 2 == 0
    for kind in ('markdown', 'latex', 'table'):
        assert 'P-IEANet (published, IEA40K)' in texts[kind] and 'Q-Align (published, SPAQ)' in texts[kind]
    assert run(*common, '--format', 'markdown') == 0
    assert capsys.readouterr().out.startswith('**tiny/test')


def test_latex_and_csv_survive_odd_names():
    row = {'set': 'a_b/50%', 'method': 'x_y & z', 'failed': 0, 'ev': {}, 'zones': {}, 'mae': 0.1}
    about = {'name': 'a_b/50%', 'pictures': 1, 'scenes': 1, 'circular': False}
    report = {'sets': [about], 'rows': [row], 'cost': {}, 'commit': None, 'hardware': {'device': 'x'},
              'protocol': {'size': 256, 'bootstrap': 0}}
    assert r'x\_y \& z' in as_latex(tables(report)[0]) and r'a\_b/50\%' in as_latex(tables(report)[0])
    assert list(csv.DictReader(as_csv(report).splitlines()))[0]['method'] == 'x_y & z'


def test_several_sets_share_a_folder_or_bring_their_own(tmp_path, tiny):
    data = tmp_path / 'tiny'
    shutil.copytree(tiny, data)
    lines = read_lines(tiny / 'test.csv')
    halves = [write_csv(data / f'{n}.csv', part) for n, part in (('a', lines[:6]), ('b', lines[6:]))]
    out = tmp_path / 'x.json'
    assert run('--data', data, '--csv', halves[0], '--csv', halves[1], '--out', out, '--bootstrap', 0) == 0
    report = json.loads(out.read_text())
    assert [(a['name'], a['pictures']) for a in report['sets']] == [('tiny/a', 6), ('tiny/b', 6)]
    assert all('mae_lo' not in r and 'p_mae' not in r for r in report['rows'])
    others = ('--data', tiny, '--csv', tiny / 'test.csv')
    assert run('--data', data, '--csv', halves[0], *others, '--bootstrap', 0, '--out', out) == 0
    assert [a['pictures'] for a in json.loads(out.read_text())['sets']] == [6, 12]


def test_published_tables():
    table = read_published()
    assert sum(r['table'] == '1+7' for r in table) == 13 and sum(r['table'] == '2' for r in table) == 19
    best = {r['method']: r for r in table if r['table'] == '1+7'}['P-IEANet']
    assert (best['mae'], best['ssim'], best['psnr'], best['params_m']) == (0.03, 0.75, 28.04, 2.7)


def test_cost_by_hand():
    network = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    network = nn.Sequential(network, nn.Conv2d(8, 1, 1, bias=False)).eval()
    found = cost(rows.from_network('two', network), torch.rand(1, 3, 32, 32), seconds=0.05)
    assert found['params'] == 3 * 8 * 9 + 8
    assert found['gflop'] * 1e9 == 2 * 32 * 32 * (3 * 8 * 9 + 8)
    floats = 32 * 32 * (8 + 1) + found['params']  # both outputs live at once
    assert floats * 4 <= found['peak_mb'] * 2 ** 20 <= (floats + 3 * 32 * 32) * 4
    assert found['ms'] > 0 and found['ms_iqr'] >= 0
    assert cost(rows.from_baseline('zero'), torch.rand(1, 3, 32, 32))['params'] is None
    broken = rows.from_network('broken', Small('raises').eval())
    assert set(cost(broken, torch.ones(1, 3, 32, 32)).values()) == {None}


def test_names_are_told_apart(tmp_path, tiny):
    found = rows.distinct_names([rows.from_baseline(n) for n in ('zero', 'zero', 'gamma')])
    assert [m.name for m in found] == ['zero', 'zero (2)', 'gamma']


def test_plots_are_written(tmp_path, tiny):
    pytest.importorskip('matplotlib')
    assert run('--data', tiny, '--csv', tiny / 'test.csv', '--baseline', 'constant', 'zero', '--maps',
               perfect_maps(tiny, tmp_path / 'm'), '--plots', tmp_path / 'plots') == 0
    names = {'error_by_ev', 'accuracy_against_cost', 'worst', 'best'}
    assert {p.name for p in (tmp_path / 'plots').iterdir()} == {f'{n}_tiny_test.png' for n in names}
    for path in (tmp_path / 'plots').iterdir():
        assert min(Image.open(path).size) > 300


def test_kept_numbers_give_the_same_report(tmp_path, tiny, monkeypatch):
    from models.baselines import make
    from models.checkpoint import save_model
    torch.manual_seed(0)
    network = make('mslt', {})
    save_model(network, tmp_path / 'net.safetensors')
    folder = perfect_maps(tiny, tmp_path / 'theirs')
    (folder / 's0_P0.npy').unlink()
    data = tmp_path / 'tiny'
    shutil.copytree(tiny, data)
    common = ('--checkpoint', tmp_path / 'net.safetensors', '--maps', folder, '--baseline', 'gamma', 'zero')
    _, plain = report_of(tmp_path, data, *common)
    measured = []

    def counted(dataset, methods, *rest, **more):
        measured.append([m.name for m in methods])
        return evaluate(dataset, methods, *rest, **more)
    monkeypatch.setattr(eval_benchmark, 'evaluate', counted)
    keep = (*common, '--keep', tmp_path / 'keep')
    everything = ['net', 'theirs', 'gamma', 'zero']
    for expected in (everything, ['theirs']):
        assert figures(report_of(tmp_path, data, *keep)[1]) == figures(plain)
        assert measured.pop() == expected
    report_of(tmp_path, data, *keep, '--baseline', 'constant', 'zero')
    assert measured.pop() == ['theirs', 'constant']
    with torch.no_grad():  # other weights
        network.guide[0].bias += 0.1
    save_model(network, tmp_path / 'net.safetensors')
    report_of(tmp_path, data, *keep)
    assert measured.pop() == ['net', 'theirs']
    monkeypatch.setitem(eval_benchmark.UNTRAINED, 'gamma', lambda x: x[:, :1] * 0 + 0.1)  # other code of the same name
    report_of(tmp_path, data, *keep)
    assert measured.pop() == ['theirs', 'gamma']
    cut, = (tmp_path / 'keep').glob('*_zero_*.npz')
    whole = cut.read_bytes()
    for damaged in (whole[:100], whole[:200] + bytes(40) + whole[240:]):
        cut.write_bytes(damaged)
        report_of(tmp_path, data, *keep)
        assert measured.pop() == ['theirs', 'zero']
    calls, healthy = [], eval_benchmark.UNTRAINED['constant']

    def short_of_memory(x):
        calls.append(x)
        if len(calls) > 1:  # the first is Keep's, which looks whether the method is still the same
            raise torch.OutOfMemoryError('CUDA out of memory')
        return healthy(x)
    only = ('--baseline', 'constant', '--keep', tmp_path / 'failing')
    monkeypatch.setitem(eval_benchmark.UNTRAINED, 'constant', short_of_memory)
    code, report = report_of(tmp_path, data, *only)
    assert code == 1 and report['failures']
    monkeypatch.setitem(eval_benchmark.UNTRAINED, 'constant', healthy)
    assert report_of(tmp_path, data, *only)[1]['failures'] == []
    measured.clear()
    label = data / 'label/exposure_condition/s1_P2.npy'  # another label
    np.save(label, np.load(label) + 1)
    report_of(tmp_path, data, *keep)
    assert measured.pop() == everything


@pytest.mark.slow
def test_torchrun_gives_the_single_process_report(tmp_path, tiny):
    torch.manual_seed(0)
    from models.checkpoint import save_model
    from models.p_ieanet import PIEANet
    save_model(PIEANet(), tmp_path / 'net.safetensors')
    common = ['eval_benchmark.py', '--data', tiny, '--csv', tiny / 'test.csv', '--baseline', 'auto-exposure',
              '--checkpoint', tmp_path / 'net.safetensors', '--batch-size', '5', '--device', 'cpu', '--out']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    reports = []
    for n, start in enumerate(([], ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'])):
        out = tmp_path / f'{n}.json'
        command = [sys.executable, *start, *map(str, common), str(out)]
        for keep in ([], ['--keep', str(tmp_path / f'keep{n}')], ['--keep', str(tmp_path / f'keep{n}')]):  # the third takes what the second kept
            subprocess.run([*command, *keep], cwd=ROOT, env=environment, check=True)
            reports.append(json.loads(out.read_text()))
        assert len(list((tmp_path / f'keep{n}').iterdir())) == 2
    assert all(figures(report) == figures(reports[0]) for report in reports)
    assert [r['protocol']['processes'] for r in reports] == [1, 1, 1, 2, 2, 2]


def test_order_of_pictures_with_equal_exposure(tmp_path):
    """Two cameras of one scene: between equals nothing rises."""
    data = write_set(tmp_path / 'set', scenes=2)
    lines = [(name, 's0.png', score) for name, _, score in read_lines(data / 'test.csv')]
    write_csv(data / 'test.csv', lines)
    perfect_maps(data, tmp_path / 'maps')
    _, report = report_of(tmp_path, data, '--maps', tmp_path / 'maps')
    assert next(r['ordering'] for r in report['rows'] if r['method'] == 'maps') == 1
