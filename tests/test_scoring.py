"""Numbers of a map: hand-worked cases, symmetry under a change of sign, sums that must add up."""
import numpy as np
import pytest

from exposure.scoring import BALANCE, THRESHOLD, Scores, score_map, worst_region, zone_shares, zones


def noise(shape=(30, 41), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_hand_worked():
    residual = np.array([[0.5, -0.2], [0.0, 0.05]], np.float32)
    s = score_map(residual)
    assert s.mean_residual == pytest.approx(0.35 / 4) and s.mean_abs_residual == pytest.approx(0.75 / 4)
    assert s.score == pytest.approx(10 * (1 - 0.75 / 4))
    assert (s.share_under, s.share_over, s.threshold) == (0.25, 0.25, THRESHOLD)
    assert s.mean_under == pytest.approx(0.55 / 4) and s.mean_over == pytest.approx(0.2 / 4)
    assert score_map(residual, 0.04).share_under == 0.5


def test_ideal_and_worst():
    assert score_map(np.zeros((3, 4), np.float32)) == Scores(10, 0, 0, 0, 0)
    assert score_map(np.full((3, 4), -1, np.float32)) == Scores(0, -1, 1, 0, 1)


def test_direction():
    for mean, told in ((-0.5, 'over'), (0, 'over'), (BALANCE - 1e-3, 'over'), (BALANCE + 1e-3, 'under'), (0.5, 'under')):
        assert score_map(np.full((3, 4), mean, np.float32)).direction == told


@pytest.mark.parametrize('seed', range(5))
def test_properties(seed):
    residual = noise(seed=seed)
    a, b = score_map(residual), score_map(-residual)
    assert a.score == b.score and a.share_under == b.share_over and a.mean_residual == -b.mean_residual
    assert a.mean_under + a.mean_over == pytest.approx(a.mean_abs_residual) and a.mean_under == pytest.approx(b.mean_over)
    assert a == score_map(residual[:, ::-1]) or a.score == pytest.approx(score_map(residual[:, ::-1]).score)
    assert a.mean_under == pytest.approx(np.maximum(residual, 0).mean(), abs=1e-6)
    assert score_map(residual * 0.5).score > a.score


@pytest.mark.parametrize('residual, threshold', [(np.zeros((2, 2, 1)), 0.1), (np.zeros((0, 4)), 0.1), (np.zeros((2, 2)), 0.0),
                                                 (np.zeros((2, 2)), 1.0)])
def test_errors(residual, threshold):
    with pytest.raises(ValueError):
        score_map(residual, threshold)


def test_worst_region_finds_the_planted_block():
    residual = noise((80, 120)) * 0.05
    residual[20:30, 45:60] -= 0.4
    region = worst_region(residual)
    assert (region.top, region.bottom, region.left, region.right) == (20, 30, 45, 60)
    assert region.mean_residual == pytest.approx(residual[20:30, 45:60].mean(), abs=1e-6)


@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (37, 41), (8, 8)])
def test_worst_region_of_any_size(shape):
    residual = noise(shape)
    region = worst_region(residual)
    block = residual[region.top:region.bottom, region.left:region.right]
    assert block.size and region.mean_residual == pytest.approx(block.mean(), abs=1e-6)
    assert abs(worst_region(residual, 1).mean_residual - residual.mean()) < 1e-6


def test_worst_region_errors():
    with pytest.raises(ValueError):
        worst_region(np.zeros(4))
    with pytest.raises(ValueError):
        worst_region(np.zeros((4, 4)), 0)


def test_zones():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    z = zones(grey)
    assert (z.min(), z.max(), z[0, 0], z.ravel()[127]) == (0, 10, 0, 5)
    assert (np.diff(z.ravel().astype(int)) >= 0).all() and (np.abs(z * 25.5 - grey) <= 12.75).all()
    assert zone_shares(grey).sum() == pytest.approx(1)
    with pytest.raises(ValueError):
        zones(grey / 255)


def test_zones_of_the_ideal_picture():
    grey = np.full((4, 4), 51, np.uint8)  # zone 2
    assert zone_shares(grey)[2] == 1
    assert zone_shares(grey, np.full((4, 4), 0.3))[5] == 1  # three zones brighter
    assert zone_shares(grey, np.full((4, 4), -0.9))[0] == 1
    with pytest.raises(ValueError):
        zone_shares(grey, np.zeros((2, 2)))
