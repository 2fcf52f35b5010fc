"""The learned score: statistics that mean what they say, a head that learns, files that come back, and the flag that trains one."""
import csv

import numpy as np
import pytest
import torch
from PIL import Image

import train_wavelet
from exposure import Predictor
from exposure.score_head import (BLOCKS, COUNT, THRESHOLDS, fit_score_head, load_score_head, map_statistics, plain_score,
                                 save_score_head)
from metrics import plcc, srcc
from models import CheckpointError, PIEANet, save_model
from tests_support import SMALL

UNDER = slice(4, 4 + len(THRESHOLDS))
OVER = slice(UNDER.stop, UNDER.stop + len(THRESHOLDS))
BLOCK = slice(OVER.stop, OVER.stop + 4 * len(BLOCKS))


def planted(seed, side=64):
    """A smooth map with parts under and over, and a grey picture."""
    random = np.random.default_rng(seed)
    coarse = random.normal(random.uniform(-.3, .3), random.uniform(.02, .2), (4, 4))
    residual = np.kron(coarse, np.ones((side // 4, side // 4))).clip(-1, 1).astype(np.float32)
    return residual, random.integers(0, 256, (side, side)).astype(np.uint8)


def test_statistics_of_a_planted_map():
    residual = np.zeros((64, 64), np.float32)
    residual[:16] = 0.25   # a quarter is under
    residual[32:] = -0.12  # half is over
    numbers = map_statistics(residual, np.full((64, 64), 255, np.uint8))
    assert numbers.shape == (COUNT,) and numbers.dtype == np.float32
    assert numbers[:3] == pytest.approx([0.0625 - 0.06, 0.0625, 0.06], abs=1e-6)
    assert numbers[UNDER] == pytest.approx([0.25 * (t < 0.25) for t in THRESHOLDS])
    assert numbers[OVER] == pytest.approx([0.5 * (t < 0.12) for t in THRESHOLDS])
    eight = numbers[BLOCK].reshape(-1, 4)[BLOCKS.index(8)]
    assert eight[:2] == pytest.approx([-0.12, 0.25], abs=1e-6) and eight[2] == pytest.approx(0.1225, abs=1e-6)
    assert numbers[-11:] == pytest.approx([0] * 10 + [1])
    assert plain_score(torch.from_numpy(numbers)[None]).item() == pytest.approx(10 * (1 - 0.1225), abs=1e-5)


def test_statistics_end_with_the_pictures_zones():
    grey = np.repeat(np.uint8([0, 128, 128, 230]), 16).reshape(8, 8)
    assert map_statistics(np.zeros((8, 8), np.float32), grey)[-11:] == pytest.approx([.25, 0, 0, 0, 0, .5, 0, 0, 0, .25, 0])


def test_statistics_of_the_negated_map_swap_under_and_over():
    residual, grey = planted(1)
    a, b = map_statistics(residual, grey), map_statistics(-residual, grey)
    assert b[[0, 1, 2, 3]] == pytest.approx([-a[0], a[2], a[1], a[3]], abs=1e-6)
    assert b[UNDER] == pytest.approx(a[OVER]) and b[OVER] == pytest.approx(a[UNDER])


def test_statistics_hardly_depend_on_the_size():
    residual, grey = planted(2)
    large = map_statistics(np.kron(residual, np.ones((10, 6), np.float32)), np.kron(grey, np.ones((10, 6), np.uint8)))
    assert large == pytest.approx(map_statistics(residual, grey), abs=0.02)


@pytest.mark.parametrize('shape', [(0, 4), (4,), (5, 4)])
def test_statistics_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match='accepted'):
        map_statistics(np.zeros(shape, np.float32), np.zeros((4, 4), np.uint8))


@pytest.fixture(scope='module')
def learned():
    """A head that has seen 400 maps whose judge minds over-exposure three times as much; 200 others."""
    statistics = torch.from_numpy(np.stack([map_statistics(*planted(seed)) for seed in range(600)]))
    scores = (10 - 10 * statistics[:, 1] - 30 * statistics[:, 2]).clamp(0, 10)
    return fit_score_head(statistics[:400], scores[:400], steps=400), statistics, scores


@torch.no_grad()
def test_head_learns_what_the_plain_score_cannot_know(learned):
    head, statistics, scores = learned
    answers, plain = head(statistics[400:]).numpy(), plain_score(statistics[400:]).numpy()
    truth = scores[400:].numpy()
    assert plcc(answers, truth) > 0.98 > plcc(plain, truth) and srcc(answers, truth) > 0.98
    assert answers.min() >= 0 and answers.max() <= 10
    assert np.abs(answers - truth).mean() < 0.3


@torch.no_grad()
def test_same_seed_same_head(learned):
    _, statistics, scores = learned
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (fit_score_head(statistics[:50], scores[:50], seed=3, steps=20)(statistics) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)  # and the caller's random numbers are left alone


def test_training_refuses_what_is_no_score(learned):
    _, statistics, scores = learned
    for x, y in ((statistics, scores * 10), (statistics[:, :3], scores), (statistics[:5], scores[:5]), (statistics[:100], scores)):
        with pytest.raises(ValueError, match='accepted'):
            fit_score_head(x, y)


@torch.no_grad()
def test_file_comes_back(learned, tmp_path):
    head, statistics, _ = learned
    save_score_head(head, tmp_path / 'head.safetensors', {'pictures': 400})
    again = load_score_head(tmp_path / 'head.safetensors')
    assert torch.equal(head(statistics), again(statistics)) and again.provenance == {'pictures': 400}


def test_wrong_files_are_named(tmp_path):
    save_model(PIEANet(SMALL), tmp_path / 'network.safetensors')
    (tmp_path / 'text.safetensors').write_text('no weights')
    for name, words in (('none.safetensors', 'no such file'), ('network.safetensors', 'not a score head, but p_ieanet'),
                        ('text.safetensors', 'not a readable safetensors file')):
        with pytest.raises(CheckpointError, match=f'{name}: {words}'):
            load_score_head(tmp_path / name)


@pytest.fixture
def rated(tmp_path):
    """Weights and twelve rated pictures without labels: IEA_img/ and a CSV."""
    torch.manual_seed(0)
    save_model(PIEANet(SMALL), tmp_path / 'small.safetensors')
    (tmp_path / 'IEA_img').mkdir()
    with open(tmp_path / 'train.csv', 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(('img_id', 'ref_id', 'score'))
        for i in range(12):
            Image.new('RGB', (48, 40), (20 * i, 20 * i, 20 * i)).save(tmp_path / 'IEA_img' / f'{i}.png')
            writer.writerow((f'{i}.png', f'{i}.png', 10 - 0.5 * i))
    return tmp_path


def test_flag_trains_a_head_that_the_predictor_uses(rated, capsys):
    weights, out = rated / 'small.safetensors', rated / 'head.safetensors'
    arguments = ['--init', weights, '--score-head', out, '--data', rated]
    (rated / 'half.csv').write_text(''.join((rated / 'train.csv').read_text().splitlines(keepends=True)[:7]))
    arguments += ['--train-csv', rated / 'train.csv', '--val-csv', rated / 'train.csv', '--val-csv', rated / 'half.csv', '--device', 'cpu']
    assert train_wavelet.main(list(map(str, arguments))) == 0
    assert capsys.readouterr().out.count('learned_plcc') == 2
    assert list(load_score_head(out).provenance['validation']) == [f'{rated.name}/train', f'{rated.name}/half']
    picture = rated / 'IEA_img' / '2.png'
    predictor = Predictor(weights, 'cpu', score_head=out)
    result = predictor.predict(picture)
    assert result.learned_score == pytest.approx(9, abs=1) and predictor.score_head.provenance['pictures'] == 12
    without = Predictor(weights, 'cpu').predict(picture)
    assert without.learned_score is None and without.score == result.score
    other = PIEANet(SMALL)
    save_model(other, rated / 'other.safetensors')
    with pytest.raises(CheckpointError, match='head.safetensors: a score head of small.safetensors .* not of .*other.safetensors'):
        Predictor(rated / 'other.safetensors', 'cpu', score_head=out)
    assert Predictor(model=other, device='cpu', score_head=out).predict(picture).learned_score is not None  # nobody knows of which file


@pytest.mark.parametrize('arguments, words', [
    (['--score-head', 'h.safetensors', '--data', '.', '--train-csv', 'train.csv'], '--score-head needs --init'),
    (['--data', '.', '--train-csv', 'train.csv'], '--out is needed'),
])
def test_flag_says_what_it_lacks(arguments, words, capsys):
    with pytest.raises(SystemExit):
        train_wavelet.get_args(arguments)
    assert words in capsys.readouterr().err


def test_flag_refuses_another_network_than_that_of_its_weights(rated, capsys):
    arguments = ['--init', rated / 'small.safetensors', '--score-head', rated / 'h.safetensors', '--data', rated]
    assert train_wavelet.main(list(map(str, [*arguments, '--train-csv', rated / 'train.csv', '--wavelet', 'db4']))) == 2
    assert 'wavelet=db4' in capsys.readouterr().err and not (rated / 'h.safetensors').exists()


def test_flag_names_a_missing_picture(rated, capsys):
    (rated / 'IEA_img' / '7.png').unlink()
    arguments = ['--init', rated / 'small.safetensors', '--score-head', rated / 'h.safetensors', '--data', rated]
    code = train_wavelet.main(list(map(str, [*arguments, '--train-csv', rated / 'train.csv', '--device', 'cpu'])))
    assert code == 2 and '7.png' in capsys.readouterr().err and not (rated / 'h.safetensors').exists()
