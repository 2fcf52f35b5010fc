"""Criteria: every band of every shipped rule set is reached and refused by its neighbours; wrong files name their rule."""
import copy
import json

import numpy as np
import pytest
from PIL import Image

from exposure import criteria as module
from exposure.criteria import (CriteriaError, applies, find_mask, judge, load_criteria, measure, parse_criteria, read_mask,
                               shipped)

SIDE = 200
AMOUNT = {'slight': 0.14, 'high': 0.22, 'very': 0.4}


def plant(over=0, under=0, subject_over=None, subject_under=None, severity='high', black=0, white=0):
    """(residual, grey, subject): shares in per cent of the background (left) and the subject (right), equal halves."""
    residual = np.full((SIDE, SIDE), 0.03, np.float32)
    subject = np.zeros((SIDE, SIDE), np.uint8)
    subject[:, SIDE // 2:] = 255
    subject_over = over if subject_over is None else subject_over
    subject_under = under if subject_under is None else subject_under
    for half, o, u in ((residual[:, :SIDE // 2], over, under), (residual[:, SIDE // 2:], subject_over, subject_under)):
        first, second = round(SIDE * o / 100), round(SIDE * u / 100)
        half[:first] = -AMOUNT[severity]
        half[SIDE - second:] = AMOUNT[severity]
    grey = np.full((SIDE, SIDE), 120, np.uint8)
    grey[:round(SIDE * black / 100)] = 0
    grey[SIDE - round(SIDE * white / 100):] = 255
    return residual, grey, subject


PLANTED = {
    'paper': {
        0: [dict(under=100, severity='very', black=100), dict(over=100, severity='very', white=97), dict(black=50, white=50)],
        100: [dict(), dict(over=1)],
        90: [dict(over=3), dict(under=3, severity='very'), dict(over=2)],
        80: [dict(over=7), dict(under=3, over=3)],
        70: [dict(over=15, severity='slight'), dict(under=10, severity='slight')],
        60: [dict(over=15), dict(under=15, severity='very'), dict(over=25, severity='slight')],
        50: [dict(under=100, severity='slight'), dict(over=60, severity='slight')],
        40: [dict(over=25), dict(over=12, under=12, severity='very'), dict(under=35, severity='slight')],
        30: [dict(over=35), dict(under=30, severity='very')],
        20: [dict(over=45), dict(under=59, severity='very')],
        10: [dict(over=60), dict(under=100, severity='very')],
    },
    'portrait': {
        0: [dict(black=50), dict(white=60, over=60)],
        100: [dict(), dict(over=9)],
        90: [dict(over=19, subject_over=5), dict(under=15, subject_under=9)],
        80: [dict(over=40, subject_over=0), dict(under=25, subject_under=5)],
        60: [dict(over=0, subject_over=15), dict(over=70, subject_over=5)],
        40: [dict(subject_under=25), dict(over=50, subject_over=20)],
        20: [dict(subject_under=35), dict(over=100)],
    },
    'landscape': {
        0: [dict(black=30, white=25)],
        100: [dict(over=1)],
        80: [dict(over=2), dict(under=3)],
        60: [dict(over=5), dict(under=10), dict(over=10, under=9)],
        40: [dict(over=20), dict(under=25)],
        20: [dict(over=30), dict(under=20, over=15)],
        10: [dict(over=40), dict(under=90)],
    },
    'street': {
        100: [dict(), dict(under=29, subject_under=0), dict(over=19, subject_over=5)],
        60: [dict(under=35, subject_under=0), dict(subject_over=50)],
        40: [dict(over=25, subject_over=0), dict(under=45, subject_under=0)],
        20: [dict(under=50), dict(under=90, subject_under=20)],
    },
    'night': {
        100: [dict(under=39, over=4), dict()],
        80: [dict(over=5, under=30), dict(over=9)],
        60: [dict(over=15), dict(under=50), dict(under=50, over=15)],
        40: [dict(over=20), dict(under=60), dict(under=70, over=25)],
    },
    'product': {
        100: [dict(), dict(over=39, subject_over=0), dict(under=80, subject_under=1)],
        80: [dict(subject_under=3), dict(subject_over=4), dict(over=60, subject_over=0)],
        60: [dict(subject_under=10), dict(subject_over=10), dict(subject_over=15, subject_under=15)],
        40: [dict(subject_over=20), dict(subject_over=60, subject_under=10)],
        20: [dict(subject_under=20), dict(subject_under=50, subject_over=30)],
    },
}
CASES = [(name, score, spec) for name, bands in PLANTED.items() for score, specs in bands.items() for spec in specs]


def test_every_shipped_band_is_planted():
    assert set(PLANTED) == {name for name in shipped() if not load_criteria(name).deducts}
    for name, bands in PLANTED.items():
        assert set(bands) == {rule.value for rule in load_criteria(name).rules}


@pytest.mark.parametrize('name, score, spec', CASES)
def test_band_is_reached_and_its_neighbours_refuse(name, score, spec):
    rules = load_criteria(name)
    result = judge(plant(**spec)[0], rules, *plant(**spec)[1:])
    assert result.score == score and rules.rules[result.applied[0]].label == result.label
    ordered = sorted(rules.rules, key=lambda rule: rule.value)
    place = [rule.value for rule in ordered].index(score)
    for neighbour in ordered[max(0, place - 1):place] + ordered[place + 1:place + 2]:
        # A band without conditions of its own refuses by standing last, and 0 comes before all others.
        if neighbour.when and score != 0:
            assert not any(applies(alternative, result.measures) for alternative in neighbour.when)


@pytest.mark.parametrize('name', PLANTED)
def test_bands_exclude_each_other_on_any_map(name):
    rules, random = load_criteria(name), np.random.default_rng(0)
    for _ in range(200):
        shares = random.dirichlet((1, 1, random.uniform(0.5, 6)), 2) * 100
        residual, grey, subject = plant(*shares[0, :2], *shares[1, :2], severity=str(random.choice(list(AMOUNT))))
        values = measure(residual, rules, grey, subject)
        assert sum(any(applies(a, values) for a in rule.when) for rule in rules.rules) <= 1
        assert 0 <= judge(residual, rules, grey, subject).score <= 100


@pytest.mark.parametrize('name', ['paper', 'landscape'])
@pytest.mark.parametrize('severity', AMOUNT)
def test_more_area_never_scores_better(name, severity):
    rules = load_criteria(name)
    scores = [judge(*plant(over=share, severity=severity)[:1], rules, plant()[1]).score for share in range(0, 101)]
    falls = [a >= b for a, b in zip(scores, scores[1:])]
    # The one exception is the paper's own: an even shift of most of the picture, if slight, is better than a part.
    assert falls.count(False) == (1 if (name, severity) == ('paper', 'slight') else 0)


def test_more_severe_never_scores_better():
    rules, grey = load_criteria('paper'), plant()[1]
    for share in range(101):
        scores = [judge(plant(under=share, severity=s)[0], rules, grey).score for s in ('slight', 'high', 'very')]
        assert scores == sorted(scores, reverse=True)


def test_severities_do_not_overlap():
    rules = parse_criteria({'bands': [{'score': 1, 'label': 'x', 'when': [{'severity': ['slight']}]},
                                      {'score': 0, 'label': 'y', 'otherwise': True}]})
    found = [measure(np.full((10, 10), -level / 1000), rules)['severity'] for level in range(0, 1001)]
    order = [module.SEVERITIES.index(grade) for grade in found]
    assert order == sorted(order) and set(found) == set(module.SEVERITIES)
    assert [found[k] for k in (100, 101, 179, 181, 269, 271)] == ['none', 'slight', 'slight', 'high', 'high', 'very']


def test_over_and_under_are_told_apart():
    rules = parse_criteria({'deductions': [
        {'points': 1, 'label': 'a', 'when': [{'over': [1, None], 'under': [1, None], 'off': [1, None], 'over_severity': ['very'],
                                             'under_severity': ['very'], 'subject.over': [0, 1], 'background.over': [0, 1]}]}]})
    residual, _, subject = plant(over=30, under=20, subject_over=10, subject_under=0)
    values = measure(residual, rules, subject=subject)
    assert values == {'over': 20, 'under': 10, 'off': 30, 'over_severity': 'high', 'under_severity': 'high',
                      'subject.over': 10, 'background.over': 30}
    swapped = measure(-residual, rules, subject=subject)
    assert (swapped['over'], swapped['under']) == (10, 20)


def test_two_makers_judge_one_map_differently():
    residual = plant(over=25)[0]
    a, b = (judge(residual, load_criteria(name)) for name in ('maker_a', 'maker_b'))
    assert (a.score, b.score) == (90, 70)
    assert '10 off for over-exposure: over-exposed area is 25.0 %' in a.why
    both = judge(plant(over=45, under=45)[0], load_criteria('maker_b'))
    assert both.score == 10 and len(both.applied) == 2
    assert judge(plant()[0], load_criteria('maker_a')).why == '100: nothing to deduct.'


def test_deductions_end_at_zero():
    rules = parse_criteria({'deductions': [{'points': 80, 'label': str(i), 'when': [{'off': [0, None]}]} for i in range(2)]})
    assert judge(plant()[0], rules).score == 0


def test_says_in_words_which_band_and_why():
    why = judge(plant(over=35)[0], load_criteria('landscape'), plant()[1]).why
    assert why == ('20, 30 % off: over- or under-exposed area is 35.0 % (this band takes at least 30 % and less than 40 %). '
                   'Not 40, 20 % off: over- or under-exposed area is 35.0 % (that band takes at least 20 % and less than 30 %).')
    why = judge(plant(under=100)[0], load_criteria('landscape'), plant()[1]).why
    assert why.startswith('10, 40 % off: none of the other bands applies. Not 20')


def test_what_is_missing_is_named():
    residual, grey, subject = plant()
    with pytest.raises(CriteriaError, match=r"portrait: band 1 .*subject.lost.* needs a mask of the subject"):
        judge(residual, load_criteria('portrait'), grey)
    with pytest.raises(CriteriaError, match=r"paper: band 1 .*lost.* needs the picture's grey"):
        judge(residual, load_criteria('paper'))
    with pytest.raises(CriteriaError, match='marks no pixel'):
        judge(residual, load_criteria('portrait'), grey, np.zeros_like(subject))
    with pytest.raises(CriteriaError, match=r'subject is \(200, 100\)'):
        judge(residual, load_criteria('portrait'), grey, subject[:, ::2])
    everything = judge(residual, load_criteria('portrait'), grey, np.ones_like(subject))
    assert everything.score == 100


GOOD = {'bands': [{'score': 90, 'label': 'good', 'when': [{'over': [0, 5]}]}, {'score': 10, 'label': 'bad', 'otherwise': True}]}


def broken(**changes):
    content = copy.deepcopy(GOOD)
    content['bands'][0].update(changes)
    return content


@pytest.mark.parametrize('content, words', [
    ([], 'no JSON object'),
    ({}, 'either "bands" or "deductions"'),
    ({**GOOD, 'treshold': 0.1}, "unknown entries ['treshold']"),
    ({**GOOD, 'threshold': 25}, 'threshold is 25'),
    ({**GOOD, 'severity': [0.3, 0.2]}, 'severity is [0.3, 0.2]'),
    ({'bands': []}, 'bands must be a list'),
    ({'bands': GOOD['bands'][:1]}, 'the last band must say'),
    ({'bands': GOOD['bands'][::-1]}, 'the last band must say'),
    (broken(score=10), 'band 2: a score of 10'),
    (broken(score=101), "band 1 (101, 'good'): score is 101"),
    (broken(score=True), 'score is True'),
    (broken(score=float('nan')), 'score is nan'),
    (broken(label=' '), 'label must be'),
    (broken(when=[]), 'band 1 (90, \'good\'): when must be'),
    (broken(when=[{}]), 'when must be'),
    (broken(otherwise=True), 'not both'),
    (broken(points=3), "unknown entries ['points']"),
    (broken(when=[{'ovr': [0, 5]}]), "band 1 (90, 'good'): measure 'ovr' is unknown"),
    (broken(when=[{'sky.over': [0, 5]}]), "measure 'sky.over' is unknown"),
    (broken(when=[{'over': [5, 5]}]), 'over is [5, 5]'),
    (broken(when=[{'over': [0, 120]}]), 'more than 100 %'),
    (broken(when=[{'over': '< 5'}]), "over is '< 5'"),
    (broken(when=[{'over': [0, 'x']}]), "over is [0, 'x']"),
    (broken(when=[{'severity': ['huge']}]), "severity is ['huge']"),
    ({'deductions': [{'points': 3, 'label': 'x', 'otherwise': True}]}, "unknown entries ['otherwise']"),
])
def test_wrong_rules_are_named(content, words, tmp_path):
    path = tmp_path / 'mine.json'
    path.write_text(json.dumps(content))
    with pytest.raises(CriteriaError) as error:
        load_criteria(path)
    assert words in str(error.value) and str(error.value).startswith('mine') and '\n' not in str(error.value)


def test_files(tmp_path):
    path = tmp_path / 'mine.json'
    path.write_text(json.dumps(GOOD))
    assert judge(plant(over=3)[0], load_criteria(path)).score == 90
    path.write_text('{"bands": [}')
    for name, words in ((path, 'not JSON (line 1'), (tmp_path / 'none.json', 'no such file'), ('portrai', 'landscape'),
                        (tmp_path, 'no')):
        with pytest.raises(CriteriaError, match=words.replace('(', r'\(')):
            load_criteria(name)


def test_masks(tmp_path):
    expected = np.zeros((20, 30), bool)
    expected[5:15, 8:20] = True
    ones = expected.astype(np.uint8)
    palette = Image.fromarray(ones * 3)
    palette.putpalette([0, 0, 0, 9, 9, 9, 1, 1, 1, 30, 0, 0])
    cutout = Image.fromarray(np.dstack([np.full((20, 30, 3), 10, np.uint8), ones * 255]))
    (tmp_path / 'sub').mkdir()
    for name, mask in (('l.png', Image.fromarray(ones * 255)), ('labels.png', Image.fromarray(ones)), ('palette.png', palette),
                       ('bit.png', Image.fromarray(expected)),
                       ('quantised.png', Image.fromarray(ones * 255).convert('RGB').quantize(2)), ('cutout.png', cutout),
                       ('rgb.jpg', Image.fromarray(ones * 255).convert('RGB'))):
        mask.save(tmp_path / 'sub' / name, quality=95)
        assert np.array_equal(read_mask(tmp_path / 'sub' / name, (20, 30)), expected), name
    soft = Image.fromarray(np.pad(ones * 255, 1, mode='edge')).resize((120, 80), Image.Resampling.BICUBIC)  # greys at its edges
    expected_soft = np.asarray(soft) >= 128
    deep = Image.fromarray(np.asarray(soft).astype(np.uint16) * 257)
    for name, mask in (('soft.png', soft), ('soft_p.png', soft.convert('P')), ('soft_quantised.png', soft.convert('RGB').quantize(16)), ('deep.png', deep),
                       ('in_16_bit.png', Image.fromarray(np.asarray(soft).astype(np.uint16))),
                       ('all.png', Image.new('L', (120, 80), 255).convert('RGB').quantize(2))):
        mask.save(tmp_path / name)
        wrong = (read_mask(tmp_path / name, (80, 120)) != (True if name == 'all.png' else expected_soft)).mean()
        assert wrong <= (0.02 if 'quantised' in name else 0), name
    larger = read_mask(tmp_path / 'sub' / 'l.png', (40, 60))
    assert np.array_equal(larger[::2, ::2], expected)
    with pytest.raises(CriteriaError, match='the mask is 30 x 20, but the picture 20 x 30'):
        read_mask(tmp_path / 'sub' / 'l.png', (30, 20))
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    with pytest.raises(CriteriaError, match='bad.png: not a readable mask'):
        read_mask(tmp_path / 'bad.png', (20, 30))


def test_masks_are_found_by_place(tmp_path):
    masks = tmp_path / 'masks'
    (masks / 'sub').mkdir(parents=True)
    (masks / 'sub' / 'a.png').touch()
    (masks / 'b.jpg.png').touch()
    (masks / 'C.JPG').touch()
    assert find_mask(masks, tmp_path / 'in' / 'C.JPG', tmp_path / 'in') == masks / 'C.JPG'
    assert find_mask(masks, tmp_path / 'in' / 'sub' / 'a.jpg', tmp_path / 'in') == masks / 'sub' / 'a.png'
    assert find_mask(masks, tmp_path / 'in' / 'b.jpg', tmp_path / 'in') == masks / 'b.jpg.png'
    (masks / 'b.png').touch()  # that of a picture b.png beside b.jpg
    assert find_mask(masks, tmp_path / 'in' / 'b.jpg', tmp_path / 'in') == masks / 'b.jpg.png'
    assert find_mask(masks, tmp_path / 'in' / 'b.png', tmp_path / 'in') == masks / 'b.png'
    with pytest.raises(CriteriaError, match='a.jpg: no mask'):
        find_mask(masks, tmp_path / 'in' / 'a.jpg', tmp_path / 'in')
