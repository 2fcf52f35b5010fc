"""benchmarks/score_checks.py, compare_brackets.py, well_exposed.py and working_size.py: planted series and brackets give the figures that they must."""
import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_brackets  # noqa: E402
import score_checks  # noqa: E402
import well_exposed  # noqa: E402
import working_size  # noqa: E402
from datasets.build import main as build  # noqa: E402
from exposure.scoring import Scores  # noqa: E402


def series(scene, scores, mean=lambda ev: -0.1 * ev):
    return [{'img_id': f'{scene}_{ev}', 'ref_id': scene, 'ev': ev, 'given': 10 - abs(ev), 'distance': 0.1 * abs(ev), 'score': score,
             'mean_residual': mean(ev), 'direction': Scores(0, mean(ev), 0, 0, 0).direction, 'under': max(0.0, mean(ev)), 'over': max(0.0, -mean(ev))}
            for ev, score in zip(range(-4, 5), scores)]


GOOD = [6, 7, 8, 9, 10, 9, 8, 7, 6]


def test_series_that_are_right():
    figures = score_checks.series_figures(series('a', GOOD) + series('b', GOOD))
    assert len(figures) == 6 + 12 and all(figure[0] == 1 for figure in figures.values())
    assert figures['direction by sign of the mean, +-1 EV'][3] == 4 and figures['is best at 0 EV'][3] == 2


def test_a_bump_a_shifted_peak_and_a_wrong_direction_are_counted():
    bump = [6, 8, 7, 9, 10, 9, 8, 7, 6]
    shifted = [5, 6, 7, 8, 9, 10, 8, 7, 6]
    wrong = series('c', GOOD, mean=lambda ev: 0.01 if ev == 1 else -0.1 * ev)
    figures = score_checks.series_figures(series('a', bump) + series('b', shifted) + wrong)
    assert figures['falls at every step, -1 to -4 EV'][0] == pytest.approx(2 / 3)
    assert figures['is lower at -4 than at -1 EV'][0] == 1
    assert figures['falls at every step, +1 to +4 EV'][0] == 1
    assert figures['falls at every step, -1 to -4 and +1 to +4 EV'][0] == pytest.approx(2 / 3)
    assert figures['is best at 0 EV'][0] == pytest.approx(2 / 3)
    assert figures['direction by sign of the mean, +-1 EV'][0] == pytest.approx(5 / 6)
    assert figures['direction, +-1 EV'][0] == 1  # 0.01 is not yet too dark


def test_balances_count_both_sides():
    rows = series('a', GOOD) + series('b', GOOD, mean=lambda ev: 0.03 - 0.1 * ev / 4)
    figures = {cut: rates for cut, *rates in score_checks.balances(rows)}
    assert figures[0.0] == [1, 0.5, 0.75, 1] and figures[0.02] == [1, 1, 1, 1]  # at -1 and +1 EV the second has .055 and .005
    assert figures[0.04] == [1, 1, 1, 1] and figures[-0.01] == figures[0.0]


def test_brackets_have_tau_and_no_series_figures():
    rows = [{**row, 'ev': None} for row in series('a', GOOD) + series('b', [-score for score in GOOD])]
    assert score_checks.series_figures(rows) == {}
    tau, low, high, count = score_checks.scene_figures(rows)["Kendall's tau-b with -distance, mean over scenes"]
    assert count == 2 and (tau, low, high) == pytest.approx((0, -1, 1))


def test_command(tmp_path, weights, capsys):
    for folder in ('IEA_img', 'label/exposure_condition'):
        (tmp_path / 'set' / folder).mkdir(parents=True)
    names = [f'a_{s}' for s in ('N4', 'N3', 'N2', 'N1', 'P0', 'P1', 'P2', 'P3', 'P4')]
    for i, name in enumerate(names):
        Image.new('RGB', (48, 48), (28 * i,) * 3).save(tmp_path / 'set/IEA_img' / f'{name}.png')
        np.save(tmp_path / 'set/label/exposure_condition' / f'{name}.npy', np.full((48, 48), 112 - 28 * i, np.int16))
    split = tmp_path / 'val.csv'
    split.write_text('img_id,ref_id,score\n' + ''.join(f'{n}.png,a.png,{10 - abs(i - 4)}\n' for i, n in enumerate(names)))
    score_checks.main(['--data', str(tmp_path / 'set'), '--csv', str(split), '--checkpoint', str(weights), '--device', 'cpu',
                       '--out', str(tmp_path / 'out.csv')])
    assert 'set/val, score: 9 pictures of 1 scenes' in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / 'out.csv').open()))
    assert {'is best at 0 EV', "SRCC with the CSV's score"} <= {row['check'] for row in rows}


@pytest.fixture
def exposed(tmp_path):
    """--data and --csv of a photograph's nine exposures."""
    (tmp_path / 'photos').mkdir()
    Image.linear_gradient('L').convert('RGB').save(tmp_path / 'photos/a.png')
    build(['simulate', '--photos', str(tmp_path / 'photos'), '--out', str(tmp_path / 'set'), '--name', 'val'])
    return ['--data', str(tmp_path / 'set'), '--csv', str(tmp_path / 'set/val.csv')]


def test_thresholds_command(tmp_path, weights, exposed, capsys):
    score_checks.main(['--thresholds', *exposed, '--checkpoint', str(weights), '--device', 'cpu', '--out', str(tmp_path / 'out.csv')])
    rows = list(csv.DictReader((tmp_path / 'out.csv').open()))
    assert [float(row['threshold']) for row in rows][:2] == [0.03, 0.05] and all(0 <= float(row['mean']) <= 1 for row in rows)
    assert f'{float(rows[0]["over_clipped"]):.3f}' in capsys.readouterr().out


def test_balances_command(tmp_path, weights, exposed, capsys):
    given = ['--balances', *exposed, '--checkpoint', str(weights), '--device', 'cpu', '--out', str(tmp_path / 'out.csv')]
    score_checks.main(given)
    rows = list(csv.DictReader((tmp_path / 'out.csv').open()))
    assert len(rows) == 11 and {row['scenes'] for row in rows} == {'1'} and all(0 <= float(row['at_1_ev_both']) <= 1 for row in rows)
    assert 'balance  -1 EV' in capsys.readouterr().out
    lines = (tmp_path / 'set/val.csv').read_text().splitlines()
    (tmp_path / 'set/val.csv').write_text('\n'.join(line for line in lines if '_P2' not in line) + '\n')
    for words, wanted in (([], 'needs series'), (['--ideal', 'fusion'], 'no curves of kinds')):
        with pytest.raises(SystemExit):
            score_checks.main([*given, *words])
        assert wanted in capsys.readouterr().err


def test_working_size_command(tmp_path, weights, exposed, capsys):
    given = ['--checkpoint', str(weights), '--sizes', '32', '64', '--out', str(tmp_path / 'out.csv')]
    assert working_size.main([*exposed, *given]) == 0
    rows = list(csv.DictReader((tmp_path / 'out.csv').open()))
    assert [row['size'] for row in rows] == ['32', '64'] and rows[0]['pictures'] == '9' and rows[0]['mae_mean'] == rows[0]['mae_set']
    assert working_size.main([*exposed[:3], str(tmp_path / 'none.csv'), *given]) == 2
    assert 'none.csv: no such file' in capsys.readouterr().err
    assert working_size.main([*exposed, *exposed, *given]) == 2
    assert '2 sets in folders with 1 names' in capsys.readouterr().err


@pytest.fixture
def stacks(tmp_path):
    """Three brackets of four flat frames; the reference is the second, the first and none."""
    lines = ['file,split,scene,order,is_reference']
    for scene, reference in (('a', 1), ('b', 0), ('c', None)):
        (tmp_path / 'val' / scene).mkdir(parents=True)
        for i, level in enumerate((20, 115, 180, 250)):
            Image.new('RGB', (48, 40), (level,) * 3).save(tmp_path / 'val' / scene / f'{i}.jpg')
            lines.append(f'val/{scene}/{i}.jpg,{"val" if scene != "c" else "broken"},{scene},{i},{int(i == reference)}')
    (tmp_path / 'list.csv').write_text('\n'.join(lines) + '\n')
    return tmp_path


def test_brackets_are_read(stacks):
    brackets = compare_brackets.read_brackets(stacks, stacks / 'list.csv', 'val')
    assert {scene: (len(frames), reference) for scene, (frames, reference) in brackets.items()} == {'a': (4, 1), 'b': (4, 0)}
    for split, words in (('broken', 'scene c has 0 reference frames'), ('none', "no split 'none'")):
        with pytest.raises(ValueError, match=words):
            compare_brackets.read_brackets(stacks, stacks / 'list.csv', split)


def test_choice():
    assert compare_brackets.picks([3, 1, 0, 2], (0, 1, 3), 1)       # of three: the second of these four is left out
    assert not compare_brackets.picks([3, 1, 0, 2], range(4), 1)
    assert compare_brackets.picks([1, 5, 9, 2], (0, 0, 3), 0)       # the reference is the darkest frame


def test_brackets_command(stacks, weights, tmp_path, capsys):
    out = stacks / 'out'
    compare_brackets.main(['--stacks', str(stacks), '--list', str(stacks / 'list.csv'), '--split', 'val', '--out', str(out),
                           '--checkpoint', str(weights), '--device', 'cpu', '--csv', str(tmp_path / 'choice.csv')])
    rows = list(csv.DictReader((tmp_path / 'choice.csv').open()))
    # Flat grey: auto-exposure takes what is nearest to mid-grey, the second frame, which of b is not among the three.
    assert [(row['of_three_frames'], row['of_all_frames']) for row in rows if row['judge'] == 'auto-exposure'] == [('1', '1'), ('1', '0')]
    text = capsys.readouterr().out
    assert text.count('in ') >= 4 and 'best of all frames    by auto-exposure  in 1 of 2 scenes: 0.500' in text
    assert (out / 'report/index.html').is_file() and {p.name for p in (out / 'reference').iterdir()} == {'a.jpg', 'b.jpg'}


def test_well_exposed_takes_the_pictures_at_ev_0_and_those_with_a_mood(tmp_path):
    names = [f'{scene}_{ev}.png,{scene}.png,5' for scene in ('a', 'b', 'c') for ev in ('N1', 'P0', 'P1')]
    (tmp_path / 'test.csv').write_text('\n'.join(['img_id,ref_id,score', *names]))
    (tmp_path / 'list.csv').write_text('file,mood\ntest/a.jpg,\ntest/b.jpg,low-key\ntest/c.jpg,\n')
    chosen = well_exposed.subsets(tmp_path / 'test.csv', tmp_path / 'list.csv')
    assert {name: [row['img_id'] for row in rows] for name, rows in chosen.items()} == {
        'fine': ['a_P0.png', 'b_P0.png', 'c_P0.png'], 'low-and-high-key': ['b_P0.png']}
    (tmp_path / 'list.csv').write_text('file,mood\ntest/a.jpg,\n')
    with pytest.raises(well_exposed.DatasetError, match='low-and-high-key'):
        well_exposed.subsets(tmp_path / 'test.csv', tmp_path / 'list.csv')
