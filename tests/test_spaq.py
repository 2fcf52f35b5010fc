"""SPAQ's published layout, on a tiny copy made here."""
import csv
import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import eval_benchmark
from datasets.iea40k import DatasetError, read_csv
from datasets.spaq import ATTRIBUTES, SHEET, ScoredPictures, main, prepare, read_annotations
from metrics.cost import cost

COLUMNS = ('Image name', *ATTRIBUTES)


def sheet_of(pictures):
    """Scores that fall with the distance from mid-grey, and MOS that has nothing to do with it."""
    lines = []
    for n in range(pictures):
        level = 0.05 + 0.9 * n / (pictures - 1)
        lines.append([f'{n + 1:05d}.jpg', 37, round(100 - 150 * abs(level - 0.45) + 3 * np.sin(n), 2), 50, 50, 50, 50])
    return lines


@pytest.fixture
def spaq(tmp_path):
    root = tmp_path / 'SPAQ'
    (root / 'TestImage').mkdir(parents=True)
    (root / 'Annotations').mkdir()
    rng = np.random.default_rng(0)
    lines = sheet_of(20)
    for n, line in enumerate(lines):
        pixels = 255 * (0.05 + 0.9 * n / 19) + rng.normal(0, 8, (40 + n, 60, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / 'TestImage' / line[0])
    write(root, lines)
    return root


def write(root, lines, header=COLUMNS):
    with open(root / f'{SHEET}.csv', 'w', newline='', encoding='utf-8-sig') as f:  # as a spreadsheet program saves it
        csv.writer(f).writerows([header, *lines, [''] * len(header)])


def test_scores_are_the_sheets(spaq):
    rows = read_annotations(spaq)
    assert len(rows) == 20 and rows[3]['img_id'] == rows[3]['ref_id'] == '00004.jpg'
    assert [r['score'] for r in rows] == [line[2] / 10 for line in sheet_of(20)]
    assert {r['score'] for r in read_annotations(spaq, 'MOS')} == {3.7}


def test_workbook_and_csv_say_the_same(spaq):
    openpyxl = pytest.importorskip('openpyxl')
    rows = read_annotations(spaq)
    book = openpyxl.Workbook()
    for line in [COLUMNS, *sheet_of(20)]:
        book.active.append(list(line))
    book.save(spaq / f'{SHEET}.xlsx')
    (spaq / f'{SHEET}.csv').unlink()
    assert read_annotations(spaq) == rows
    (spaq / f'{SHEET}.xlsx').write_bytes(b'no workbook')
    with pytest.raises(DatasetError, match='not a readable workbook'):
        read_annotations(spaq)


def test_splits_share_the_pictures(spaq, tmp_path):
    parts = prepare(spaq, tmp_path / 'set')
    assert [len(parts[k]) for k in ('all', 'train', 'val', 'test')] == [20, 14, 2, 4]
    names = [{r['img_id'] for r in parts[k]} for k in ('train', 'val', 'test')]
    assert set.union(*names) == {r['img_id'] for r in parts['all']} and sum(map(len, names)) == 20
    again = read_csv(tmp_path / 'set/test.csv')
    assert [r['img_id'] for r in again] == [r['img_id'] for r in parts['test']]
    assert [r['score'] for r in again] == pytest.approx([r['score'] for r in parts['test']])
    sample = ScoredPictures(tmp_path / 'set', tmp_path / 'set/test.csv', 64)[0]
    assert sample['image'].shape == (3, 64, 64) and not sample['mask'].any() and sample['score'] == again[0]['score']
    assert prepare(spaq, tmp_path / 'set') == parts  # again, with the link in place
    moved = spaq.rename(tmp_path / 'moved')
    prepare(moved, tmp_path / 'set')  # the old link is broken, or would show another copy's pictures
    assert (tmp_path / 'set/IEA_img').samefile(moved / 'TestImage')
    (tmp_path / 'other/IEA_img').mkdir(parents=True)
    with pytest.raises(DatasetError, match='is there already'):
        prepare(moved, tmp_path / 'other')


def test_holistic_figures_without_labels(spaq, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(eval_benchmark, 'cost', functools.partial(cost, seconds=0, max_runs=3))
    assert main([str(spaq), '--out', str(tmp_path / 'set')]) == 0 and 'all: 20' in capsys.readouterr().out
    out = tmp_path / 'report.json'
    assert eval_benchmark.main([str(a) for a in (
        '--data', tmp_path / 'set', '--csv', tmp_path / 'set/all.csv', '--baseline', 'constant', 'zero', '--checkpoint', flat(tmp_path),
        '--size', 64, '--device', 'cpu', '--bootstrap', 50, '--plots', tmp_path / 'plots', '--out', out)]) == 0
    shown = capsys.readouterr().out
    report = json.loads(out.read_text())
    about, row = report['sets'][0], report['rows'][1]
    assert row['method'] == 'constant' and row['failed'] == 0 and row['pictures'] == 20 and not about['circular']
    data = ScoredPictures(tmp_path / 'set', tmp_path / 'set/all.csv', 64)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    expected = [10 * (1 - abs(0.45 - (s['image'] * weights).sum(0).mean().item())) for s in data]
    scores = [s['score'] for s in data]
    assert row['plcc'] == pytest.approx(stats.pearsonr(expected, scores)[0], abs=1e-5)
    assert row['srcc'] == pytest.approx(stats.spearmanr(expected, scores)[0], abs=1e-5) and row['srcc'] > 0.9
    assert row['srcc_lo'] <= row['srcc'] <= row['srcc_hi'] and row['plcc_logistic4'] > row['plcc'] - 1e-6
    for nothing in ('mae', 'ssim', 'psnr', 'acc', 'level', 'mae_lo'):
        assert row[nothing] is None
    assert row['zones'] == {} and 'p_mae' not in row and 'PLCC' in shown and 'MAE' not in shown and 'SSIM' not in shown


def flat(folder):
    from models.baselines import make
    from models.checkpoint import save_model
    save_model(make('mslt', {}), folder / 'mslt.safetensors')
    return folder / 'mslt.safetensors'


def test_a_head_is_tuned_on_it(spaq, tmp_path, capsys):
    import train_wavelet
    prepare(spaq, tmp_path / 'set')
    assert train_wavelet.main([str(a) for a in (
        '--init', flat(tmp_path), '--score-head', tmp_path / 'head.safetensors', '--data', tmp_path / 'set', '--train-csv', tmp_path / 'set/train.csv',
        '--val-csv', tmp_path / 'set/test.csv', '--device', 'cpu')]) == 0
    assert 'plcc' in capsys.readouterr().out and (tmp_path / 'head.safetensors').exists()


@pytest.mark.parametrize('spoil, message', [
    (lambda root: (root / f'{SHEET}.csv').unlink(), 'no such file, nor a .csv'),
    (lambda root: write(root, sheet_of(20), ('Image name', 'MOS', 'Light', *ATTRIBUTES[2:])), 'no column Brightness'),
    (lambda root: write(root, [['00001.jpg', 1, 'bright', 1, 1, 1, 1]]), 'line 2'),
    (lambda root: write(root, [['00001.jpg', 1, 300, 1, 1, 1, 1]]), 'from 0 to 100'),
    (lambda root: write(root, []), 'has no rows'),
    (lambda root: (root / f'{SHEET}.csv').write_bytes('Image name,Brightness\ncaf\xe9.jpg,50\n'.encode('cp1252')), 'save the sheet as CSV in UTF-8'),
    (lambda root: (root / 'TestImage/00007.jpg').unlink(), '1 pictures are missing, the first is 00007.jpg')])
def test_what_is_wrong_ends_in_one_line(spaq, tmp_path, capsys, spoil, message):
    spoil(spaq)
    assert main([str(spaq), '--out', str(tmp_path / 'set')]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
