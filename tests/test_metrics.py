"""Metrics against hand-computed cases and against scipy, scikit-image and pytorch_msssim."""
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import metrics
from metrics.pixel import MAP_NUMBERS, MAX_PSNR, TRUTH_NUMBERS, ZONES, Truth
from metrics.summary import FLIPS, holm, order_of, resampled_scenes, sign_flip_p


@pytest.fixture
def maps():
    """Two smooth signed maps and some noise, (4, 1, 48, 64)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64] / 20
    target = 0.6 * np.sin(x + np.arange(4)[:, None, None]) * np.cos(y)
    pred = np.clip(target * 0.8 + 0.1 + 0.05 * rng.standard_normal(target.shape), -1, 1)
    return pred[:, None], target[:, None]


def test_errors_by_hand():
    target = np.zeros((2, 2))
    pred = np.array([[0.1, 0.1], [0.1, -0.3]])
    assert metrics.mae(pred, target) == pytest.approx(0.15)
    assert metrics.mse(pred, target) == pytest.approx(0.03)
    assert metrics.bias(pred, target) == pytest.approx(0.0)
    level, detail = metrics.level_detail(pred, target)
    assert level == pytest.approx(0.0)
    assert detail == pytest.approx(0.1)  # the best offset is the median, .1: |0| |0| |0| |-.4|
    assert metrics.psnr(pred, target) == pytest.approx(-10 * math.log10(0.03))


def test_a_constant_offset_is_all_level_and_no_detail(maps):
    _, target = maps
    level, detail = metrics.level_detail(target - 0.25, target)
    assert level == pytest.approx([0.25] * 4)
    assert detail == pytest.approx([0] * 4, abs=1e-12)
    assert metrics.bias(target - 0.25, target) == pytest.approx([-0.25] * 4)
    assert metrics.psnr(target + 0.1, target) == pytest.approx(20.0)  # an error of .1 everywhere, peak 1


def test_detail_is_the_smallest_mae_over_all_offsets(maps):
    pred, target = maps
    _, detail = metrics.level_detail(pred[0, 0], target[0, 0])
    tried = [metrics.mae(pred[0, 0] - c, target[0, 0]) for c in np.linspace(-0.5, 0.5, 2001)]
    assert detail <= min(tried) + 1e-12
    assert detail == pytest.approx(min(tried), abs=1e-4)


def test_psnr_of_a_set_is_from_the_mean_squared_error_and_finite():
    target = np.zeros((2, 16, 16))
    pred = target.copy()
    pred[1] = 0.1
    assert metrics.psnr(pred, target) == pytest.approx(-10 * math.log10(0.005))
    assert metrics.psnr(target, target) == MAX_PSNR
    assert metrics.psnr_from_mse(np.array([0.01, 0.0])) == pytest.approx([20.0, MAX_PSNR])


def test_ssim_equals_pytorch_msssim(maps):
    reference = pytest.importorskip('pytorch_msssim').ssim
    window = torch.exp(-(torch.arange(11, dtype=torch.float64) - 5) ** 2 / (2 * 1.5 ** 2))
    window = (window / window.sum()).view(1, 1, 1, 11)
    for pred, target in (maps, (maps[0][..., :11, :11], maps[1][..., :11, :11])):
        p, t = torch.from_numpy(pred), torch.from_numpy(target)
        for shifted, (a, b) in enumerate(((p, t), ((p + 1) / 2, (t + 1) / 2))):
            ours = metrics.ssim(pred, target, shifted=bool(shifted))
            exact = reference(a, b, data_range=1, size_average=False, win=window)
            assert ours == pytest.approx(exact.numpy(), abs=1e-9)
            # as it comes, its window is float32 and its variances off by some 1e-8
            assert ours == pytest.approx(reference(a, b, data_range=1, size_average=False).numpy(), abs=2e-5)


def test_ssim_equals_scikit_image(maps):
    reference = pytest.importorskip('skimage.metrics').structural_similarity
    for p, t in zip(maps[0][:, 0], maps[1][:, 0]):
        expected = reference(p, t, data_range=1, gaussian_weights=True, sigma=1.5,
                             use_sample_covariance=False)
        assert metrics.ssim(p, t) == pytest.approx(expected, abs=1e-9)


def test_psnr_and_mse_equal_scikit_image(maps):
    reference = pytest.importorskip('skimage.metrics')
    p, t = maps[0][0, 0], maps[1][0, 0]
    assert metrics.psnr(p, t) == pytest.approx(reference.peak_signal_noise_ratio(t, p, data_range=1))
    assert metrics.mse(p, t) == pytest.approx(reference.mean_squared_error(t, p))


def test_ssim_of_constants_by_hand():
    a, b = np.full((16, 16), 0.3), np.full((16, 16), -0.2)
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.3 * -0.2 + 1e-4) / (0.09 + 0.04 + 1e-4))
    shifted = (2 * 0.65 * 0.4 + 1e-4) / (0.65 ** 2 + 0.4 ** 2 + 1e-4)
    assert metrics.ssim(a, b, shifted=True) == pytest.approx(shifted)


@pytest.mark.parametrize('shifted', (False, True))
def test_ssim_is_symmetric_and_one_for_equal_maps(maps, shifted):
    pred, target = maps
    assert metrics.ssim(target, target, shifted=shifted) == pytest.approx([1] * 4)
    forth, back = metrics.ssim(pred, target, shifted=shifted), metrics.ssim(target, pred, shifted=shifted)
    assert forth == pytest.approx(back)
    assert (forth < 1).all()


def test_what_lies_outside_the_mask_does_not_count(maps):
    pred, target = maps
    mask = np.zeros(target.shape, bool)
    mask[..., 4:40, 10:50] = True
    spoilt = np.where(mask, pred, -1.0)
    inside = (slice(None), slice(None), slice(4, 40), slice(10, 50))
    def detail(*maps):
        return metrics.level_detail(*maps)[1]
    for figure in (metrics.mae, metrics.mse, metrics.bias, metrics.ssim, detail):
        assert figure(spoilt, target, mask) == pytest.approx(figure(pred[inside], target[inside]), abs=1e-12)


def test_a_picture_is_the_same_alone_and_in_a_batch(maps):
    pred, target = maps
    for figure in (metrics.mae, metrics.mse, metrics.bias, metrics.ssim):
        alone = [figure(p[0], t[0]) for p, t in zip(pred, target)]
        assert alone == figure(pred, target).tolist()
        assert isinstance(alone[0], float)


def test_tensors_of_any_float_type_are_taken(maps):
    pred, target = (torch.from_numpy(m).float() for m in maps)
    assert metrics.mae(pred.requires_grad_(), target) == pytest.approx(metrics.mae(*maps), abs=1e-6)
    assert metrics.mae(pred.bfloat16(), target) == pytest.approx(metrics.mae(*maps), abs=2e-3)


@pytest.mark.parametrize('pred, target, message', (
    (np.zeros((8, 8)), np.zeros((8, 9)), 'equal shapes'),
    (np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 8, 8)), r'\(B, 1, H, W\)'),
    (np.full((8, 8), np.nan), np.zeros((8, 8)), 'NaN'),
))
def test_bad_maps_raise(pred, target, message):
    with pytest.raises(ValueError, match=message):
        metrics.mae(pred, target)


def test_too_small_maps_and_empty_masks_raise():
    with pytest.raises(ValueError, match='11x11'):
        metrics.ssim(np.zeros((10, 20)), np.zeros((10, 20)))
    with pytest.raises(ValueError, match='empty'):
        metrics.mae(np.zeros((8, 8)), np.zeros((8, 8)), np.zeros((8, 8)))
    with pytest.raises(ValueError, match='window'):
        metrics.ssim(np.zeros((16, 16)), np.zeros((16, 16)), np.eye(16))


def test_truth_measures_what_the_functions_measure(maps):
    pred, target = maps[0][0, 0], maps[1][0, 0]
    mask = np.ones(target.shape, bool)
    mask[:3] = False
    grey = np.linspace(0, 1, target.size).reshape(target.shape)
    truth = Truth(target, mask, grey)
    numbers = truth.measure(pred)
    assert set(numbers) == set(MAP_NUMBERS) and set(truth.numbers) == set(TRUTH_NUMBERS)
    level, detail = metrics.level_detail(pred, target, mask)
    three = pred, target, mask
    expected = {'mae': metrics.mae(*three), 'mse': metrics.mse(*three), 'bias': metrics.bias(*three),
                'level': level, 'detail': detail, 'ssim': metrics.ssim(*three),
                'ssim_shifted': metrics.ssim(*three, shifted=True),
                'mean': pred[mask].mean(), 'mean_abs': np.abs(pred[mask]).mean()}
    assert {k: numbers[k] for k in expected} == pytest.approx(expected, abs=1e-12)
    pixels = [truth.numbers[f'pixels_zone{z}'] for z in range(ZONES)]
    errors = [numbers[f'error_zone{z}'] for z in range(ZONES)]
    assert sum(pixels) == mask.sum()
    assert sum(errors) / mask.sum() == pytest.approx(numbers['mae'])
    white = mask & (grey >= 0.95)  # zone X
    assert errors[10] / pixels[10] == pytest.approx(np.abs(pred - target)[white].mean())


def test_correlations_equal_scipy():
    rng = np.random.default_rng(1)
    x = rng.normal(size=50).round(1)  # ties
    y = (x + rng.normal(size=50)).round(1)
    assert metrics.plcc(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
    assert metrics.srcc(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert metrics.srcc([1, 2, 3], [9, 8, 1]) == pytest.approx(-1)


def test_the_logistic_fit_finds_the_curve_that_made_the_scores():
    x = np.linspace(2, 9, 60)
    curved = 1 + 8 / (1 + np.exp(-(x - 6) / 0.5))
    assert metrics.plcc(x, curved) < 0.96
    assert metrics.plcc(x, curved, 'logistic4') == pytest.approx(1, abs=1e-6)
    assert metrics.fit_logistic(x, curved, 'logistic4') == pytest.approx(curved, abs=1e-3)
    assert metrics.plcc(x, 10 - curved, 'logistic4') == pytest.approx(1, abs=1e-6)  # falling ones too
    assert metrics.plcc(x, curved + 0.3 * x, 'logistic5') == pytest.approx(1, abs=1e-6)
    assert metrics.plcc(x, 3 * x - 2, 'logistic4') > 0.999


def test_a_fit_is_never_worse_than_none():
    rng = np.random.default_rng(2)
    for _ in range(10):
        x = rng.normal(size=80)
        y = np.tanh(x) + 0.3 * rng.normal(size=80)
        for fit in ('logistic4', 'logistic5'):
            assert metrics.plcc(x, y, fit) > metrics.plcc(x, y) - 1e-6


def test_undefined_correlations_are_nan():
    assert math.isnan(metrics.plcc([5, 5, 5], [1, 2, 3]))
    assert math.isnan(metrics.plcc([5, 5, 5, 5, 5], [1, 2, 3, 4, 5], 'logistic4'))
    assert math.isnan(metrics.srcc([1], [1]))
    with pytest.raises(ValueError, match='logistic9'):
        metrics.plcc([1, 2, 3], [1, 2, 3], 'logistic9')
    with pytest.raises(ValueError, match='NaN'):
        metrics.srcc([1, float('nan')], [1, 2])


def test_acc_by_hand():
    # under, fine, fine (on the line), over against: under, fine, under, fine
    assert metrics.acc([0.2, 0.05, 0.1, -0.3], [0.4, -0.05, 0.2, -0.02]) == 0.5
    assert metrics.acc([0.2, 0.05, 0.1, -0.3], [0.4, -0.05, 0.2, -0.02], threshold=0.35) == 0.75
    assert metrics.verdict([0.11, 0.1, 0, -0.1, -0.11]).tolist() == [1, 0, 0, 0, -1]


def test_ordering_by_hand():
    assert metrics.ordering([0.5, 0.2, 0.3, -0.1]) == (2, 3)
    assert metrics.ordering([0.0, 0.0, 0.0]) == (0, 2)  # the zero map orders nothing
    assert metrics.ordering([0.3]) == (0, 0)


def test_holistic_score():
    assert metrics.holistic_score([0, 0.25, 1]).tolist() == [10, 7.5, 0]


def test_order_within_a_scene_is_read_from_the_name():
    names = {'a_N4.png': -4, 'a_N1.png': -1, 'a_P0.png': 0, 'a_P4.png': 4, 'street_F00.png': 0,
             'street_F12.png': 12, 'a.png': None, 'a_P12.png': None}
    assert {n: order_of(n) for n in names} == names


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_sign_flips_approach_the_exact_test():
    gaps = np.array([0.3, 0.1, 0.4, -0.05, 0.2, 0.25, 0.15, 0.1])
    every = np.array(list(itertools.product((-1, 1), repeat=8)))
    exact = np.mean(np.abs(every @ gaps) >= abs(gaps.sum()) - 1e-12)
    p, nothing = sign_flip_p([gaps, np.zeros(8)], seed=0)
    assert p == pytest.approx(exact, abs=0.005) and nothing == 1.0


def test_resampling_in_pieces_draws_what_one_piece_would():
    whole = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=110)
    assert (resampled_scenes(7, 110, 3) == whole).all()
    gaps = np.random.default_rng(4).normal(size=33)
    signs = np.random.default_rng(5).integers(0, 2, (FLIPS, 33), dtype=np.int8) * 2.0 - 1
    whole = (1 + (np.abs(signs @ gaps) >= abs(gaps.sum()) * (1 - 1e-9)).sum()) / (1 + FLIPS)
    assert sign_flip_p([gaps], 5) == [whole]
