"""Criteria: a maker's own rules, from a residual map to a score from 0 to 100 and the reason for it in words.

    rules = load_criteria('landscape')                       # or the path of your own JSON file
    judgement = judge(result.residual, rules, grey=grey, subject=mask)
    judgement.score, judgement.why                           # 60, '10 %: over-exposed area is 14.0 % ...'

A rule set is a JSON file; those that come with this package lie in exposure/criteria/ and docs/scores.md explains them.
It has either `bands` (the first band that applies gives the score) or `deductions` (all that apply are taken off 100):

    {"about": "...", "threshold": 0.1, "severity": [0.18, 0.27],
     "bands": [{"score": 90, "label": "good", "when": [{"over": [0, 5], "under": [0, 10]}, {"off": [0, 6]}]},
               {"score": 20, "label": "bad", "otherwise": true}]}
    {"about": "...", "deductions": [{"points": 10, "label": "over-exposed", "when": [{"over": [20, null]}]}]}

`when` lists alternatives; an alternative applies when all its measures lie in their ranges, [at least, less than] in
per cent of the area, null for no bound. Measures:

    over, under   |residual| beyond the threshold, too bright or too dark;    off    both together
    black, white  the picture's grey is at most 5, at least 250 of 255;       lost   both together
    severity, over_severity, under_severity    a list of "none", "slight", "high", "very"

each of the whole picture, or of a part when it begins with `subject.` or `background.`: these want a mask.

Severity, which the paper names but does not define: the mean |residual| over the pixels that count (of `over`, `under` or
`off`); below the first cut slight, below the second high, else very; none where less than 2 % of the area counts. The
shipped cuts .18 and .27 are about one and a half and two and a half stops, measured on validation photographs.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .scoring import THRESHOLD

FOLDER = Path(__file__).resolve().parent / 'criteria'
SEVERITY_CUTS = (0.18, 0.27)
SEVERITIES = ('none', 'slight', 'high', 'very')
NEGLIGIBLE = 2.0  # per cent of the area: less of it has no severity
BLACK, WHITE = 5, 250
SHARES = {
    'over': 'over-exposed area',
    'under': 'under-exposed area',
    'off': 'over- or under-exposed area',
    'black': 'black area',
    'white': 'white area',
    'lost': 'black or white area',
}
GRADES = {'severity': 'severity', 'over_severity': 'severity of over-exposure', 'under_severity': 'severity of under-exposure'}
REGIONS = ('subject', 'background')


class CriteriaError(ValueError):
    """A rule set that cannot be used, or lacks what it needs; one line that names the set and the rule."""


@dataclass(frozen=True)
class Rule:
    """A band (score) or a deduction (points), with the alternatives that make it apply; none: always (otherwise)."""

    value: float
    label: str
    when: tuple  # of dicts {measure: (low, high) or tuple of severities}


@dataclass(frozen=True)
class Criteria:
    """A checked rule set, see :func:`load_criteria`."""

    name: str
    about: str
    threshold: float
    severity: tuple
    rules: tuple
    deducts: bool  # the rules are deductions, not bands

    @property
    def measures(self) -> tuple:
        """Names of the measures that the rules ask for, sorted."""
        return tuple(sorted({name for rule in self.rules for alternative in rule.when for name in alternative}))

    @property
    def needs_subject(self) -> bool:
        return any(name.startswith(REGIONS) for name in self.measures)

    @property
    def needs_grey(self) -> bool:
        return any(name.rpartition('.')[2] in ('black', 'white', 'lost') for name in self.measures)


@dataclass(frozen=True)
class Judgement:
    """Score from 0 to 100, the label of the band (or of the deductions), why in words, and the measures it rests on.

    `applied` are the places of the rules that applied, counted from 0 in the order of the file.
    """

    score: float
    label: str
    why: str
    applied: tuple
    measures: dict = field(default_factory=dict)


def shipped() -> tuple:
    """Names of the rule sets that come with this package."""
    return tuple(sorted(path.stem for path in FOLDER.glob('*.json')))


def load_criteria(name: str | os.PathLike) -> Criteria:
    """A rule set by its name, or from a JSON file.

    Raises:
        CriteriaError: there is none, or it is wrong; one line that names the file, the rule and what is accepted.
    """
    path = Path(name)
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise CriteriaError(f'{path}: no such file')
        if path.name not in shipped():
            raise CriteriaError(f'criteria {path.name!r} are unknown: {", ".join(shipped())}, or a JSON file')
        path = FOLDER / f'{path.name}.json'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise CriteriaError(f'{path}: cannot be read ({error})') from error
    except json.JSONDecodeError as error:
        raise CriteriaError(f'{path}: not JSON (line {error.lineno}: {error.msg})') from error
    return parse_criteria(content, path.stem)


def parse_criteria(content: dict, name: str = 'criteria') -> Criteria:
    """A rule set from the content of its JSON file; errors as of :func:`load_criteria`."""
    known = {'about', 'threshold', 'severity', 'bands', 'deductions'}
    if not isinstance(content, dict):
        raise CriteriaError(f'{name}: the file holds no JSON object')
    if unknown := set(content) - known:
        raise CriteriaError(f'{name}: unknown entries {sorted(unknown)}, known: {sorted(known)}')
    if ('bands' in content) == ('deductions' in content):
        raise CriteriaError(f'{name}: needs either "bands" or "deductions"')
    threshold, cuts = content.get('threshold', THRESHOLD), content.get('severity', list(SEVERITY_CUTS))
    if not _is_number(threshold) or not 0 < threshold < 1:
        raise CriteriaError(f'{name}: threshold is {threshold!r}, accepted: a number in (0, 1)')
    if not (isinstance(cuts, list) and len(cuts) == 2 and all(map(_is_number, cuts)) and 0 < cuts[0] < cuts[1] < 1):
        raise CriteriaError(f'{name}: severity is {cuts!r}, accepted: two rising numbers in (0, 1)')
    deducts = 'deductions' in content
    key = 'deductions' if deducts else 'bands'
    rules = content[key]
    if not isinstance(rules, list) or not rules:
        raise CriteriaError(f'{name}: {key} must be a list that is not empty')
    rules = tuple(_parse_rule(rule, f'{name}: {key[:-1]} {place}', deducts) for place, rule in enumerate(rules, 1))
    if not deducts:
        always = [place for place, rule in enumerate(rules, 1) if not rule.when]
        if always != [len(rules)]:
            raise CriteriaError(f'{name}: exactly the last band must say "otherwise": true, but {always or "none"} do')
        scores = [rule.value for rule in rules]
        for place, score in enumerate(scores, 1):
            if score in scores[: place - 1]:
                raise CriteriaError(f'{name}: band {place}: a score of {score:g} stands there twice')
    about = content.get('about', '')
    if not isinstance(about, str):
        raise CriteriaError(f'{name}: about must be a text')
    return Criteria(name, about, float(threshold), tuple(cuts), rules, deducts)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _parse_rule(rule, where: str, deducts: bool) -> Rule:
    value_key = 'points' if deducts else 'score'
    if not isinstance(rule, dict):
        raise CriteriaError(f'{where}: must be an object, but is {rule!r}')
    where += f' ({rule.get(value_key)!r}, {rule.get("label")!r})'
    known = {value_key, 'label', 'when'} | (set() if deducts else {'otherwise'})
    if unknown := set(rule) - known:
        raise CriteriaError(f'{where}: unknown entries {sorted(unknown)}, known: {sorted(known)}')
    value = rule.get(value_key)
    if not _is_number(value) or not 0 <= value <= 100:
        raise CriteriaError(f'{where}: {value_key} is {value!r}, accepted: 0 to 100')
    if not isinstance(rule.get('label'), str) or not rule['label'].strip():
        raise CriteriaError(f'{where}: label must be a text that is not empty')
    if ('when' in rule) == ('otherwise' in rule):
        raise CriteriaError(f'{where}: needs {chr(34)}when{chr(34)}' + ('' if deducts else ' or "otherwise", not both'))
    if 'otherwise' in rule:
        if rule['otherwise'] is not True:
            raise CriteriaError(f'{where}: otherwise is {rule["otherwise"]!r}, accepted: true')
        return Rule(float(value), rule['label'], ())
    when = rule['when']
    if not isinstance(when, list) or not when or not all(isinstance(a, dict) and a for a in when):
        raise CriteriaError(f'{where}: when must be a list of objects, none of them empty')
    return Rule(float(value), rule['label'], tuple(
        {name: _parse_range(name, bounds, where) for name, bounds in alternative.items()} for alternative in when))


def _parse_range(name: str, bounds, where: str):
    region, _, measure = name.rpartition('.')
    if region not in ('', *REGIONS) or measure not in (*SHARES, *GRADES):
        raise CriteriaError(f'{where}: measure {name!r} is unknown, known: {", ".join((*SHARES, *GRADES))}, '
                            'each also after "subject." or "background."')
    if measure in GRADES:
        if not isinstance(bounds, list) or not bounds or any(grade not in SEVERITIES for grade in bounds):
            raise CriteriaError(f'{where}: {name} is {bounds!r}, accepted: a list out of {", ".join(SEVERITIES)}')
        return tuple(bounds)
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise CriteriaError(f'{where}: {name} is {bounds!r}, accepted: [at least, less than] in per cent')
    low, high = (default if bound is None else bound for bound, default in zip(bounds, (0, math.inf)))
    if not (_is_number(low) and (high == math.inf or _is_number(high)) and 0 <= low < high and low <= 100):
        raise CriteriaError(f'{where}: {name} is {bounds!r}, accepted: [at least, less than], rising, 0 to 100, or null')
    if high != math.inf and high > 100:
        raise CriteriaError(f'{where}: {name} is {bounds!r}: more than 100 % of the area; null means no bound')
    return float(low), float(high)


def measure(residual: np.ndarray, criteria: Criteria, grey=None, subject=None) -> dict:
    """The measures that a rule set asks for: shares in per cent, severities by name.

    Args:
        residual: (H, W) on [-1, 1].
        grey: (H, W) uint8 luma of the picture; needed by black, white, lost.
        subject: (H, W), nonzero on the subject; needed by subject.* and background.*.

    Raises:
        CriteriaError: what the rules need is missing, of another size, or marks no pixel.
    """
    residual = np.asarray(residual)
    if residual.ndim != 2 or residual.size == 0:
        raise CriteriaError(f'residual must be (H, W), not empty, but is {residual.shape}')
    for name, needed, given in (('grey', criteria.needs_grey, grey), ('subject', criteria.needs_subject, subject)):
        if needed and given is None:
            what = "the picture's grey" if name == 'grey' else 'a mask of the subject'
            raise CriteriaError(f'{criteria.name}: {_first_that_needs(criteria, name)} needs {what}')
        if needed and np.shape(given) != residual.shape:
            raise CriteriaError(f'{criteria.name}: {name} is {np.shape(given)}, but the map is {residual.shape}')
    parts = {'': None}
    if criteria.needs_subject:
        inside = np.asarray(subject) != 0
        if not inside.any():
            raise CriteriaError(f'{criteria.name}: the mask of the subject marks no pixel')
        parts.update(subject=inside, background=~inside)
    values = {}
    for name in criteria.measures:
        region, _, what = name.rpartition('.')
        part = parts[region]
        total = residual.size if part is None else int(part.sum())
        if what in ('black', 'white', 'lost'):
            g = np.asarray(grey)
            counts = {'black': g <= BLACK, 'white': g >= WHITE, 'lost': (g <= BLACK) | (g >= WHITE)}[what]
        else:
            side = what.partition('_')[0]  # over, under, off or severity
            over, under = residual < -criteria.threshold, residual > criteria.threshold
            counts = {'over': over, 'under': under}.get(side, over | under)
        if part is not None:
            counts = counts & part
        number = int(np.count_nonzero(counts))
        share = 100 * number / total if total else 0.0  # a mask of everything leaves no background
        if what in SHARES:
            values[name] = share
        elif share < NEGLIGIBLE:
            values[name] = 'none'
        else:
            mean = float(np.abs(residual[counts], dtype=np.float64).mean())
            values[name] = SEVERITIES[1 + sum(mean >= cut for cut in criteria.severity)]
    return values


def _first_that_needs(criteria: Criteria, what: str) -> str:
    for place, rule in enumerate(criteria.rules, 1):
        for alternative in rule.when:
            for name in alternative:
                region, _, measure_ = name.rpartition('.')
                if region if what == 'subject' else measure_ in ('black', 'white', 'lost'):
                    return f'{"deduction" if criteria.deducts else "band"} {place} ({rule.value:g}, {rule.label!r}: {name})'
    return 'it'


def judge(residual: np.ndarray, criteria: Criteria, grey=None, subject=None) -> Judgement:
    """The score that a rule set gives to a map, with the reason; arguments and errors as of :func:`measure`."""
    return decide(criteria, measure(residual, criteria, grey, subject))


def decide(criteria: Criteria, values: dict) -> Judgement:
    """The second half of :func:`judge`, from the measures."""
    if criteria.deducts:
        return _deduct(criteria, values)
    place, alternative = next((i, a) for i, rule in enumerate(criteria.rules) for a in (rule.when or ({},))
                              if applies(a, values))
    rule = criteria.rules[place]
    why = _in_words(alternative, values) if rule.when else 'none of the other bands applies'
    better = [other for other in criteria.rules if other.value > rule.value]
    if better:
        better = min(better, key=lambda other: other.value)
        failed = ', nor '.join(_failure(a, values) for a in better.when)
        if failed:
            why += f'. Not {better.value:g}, {better.label}: {failed}'
    return Judgement(rule.value, rule.label, f'{rule.value:g}, {rule.label}: {why}.', (place,), values)


def applies(alternative: dict, values: dict) -> bool:
    """Whether all measures of an alternative are in their ranges."""
    return all(_holds(values[name], bounds) for name, bounds in alternative.items())


def _holds(value, bounds) -> bool:
    return value in bounds if isinstance(value, str) else bounds[0] <= value < bounds[1]


def _deduct(criteria: Criteria, values: dict) -> Judgement:
    applied, reasons = [], []
    for place, rule in enumerate(criteria.rules):
        alternative = next((a for a in rule.when if applies(a, values)), None)
        if alternative is not None:
            applied.append(place)
            reasons.append(f'{rule.value:g} off for {rule.label}: {_in_words(alternative, values)}')
    score = max(0.0, 100 - sum(criteria.rules[place].value for place in applied))
    label = ', '.join(criteria.rules[place].label for place in applied) or 'nothing to deduct'
    return Judgement(score, label, f'{score:g}: {"; ".join(reasons) or label}.', tuple(applied), values)


def _title(name: str) -> str:
    region, _, measure_ = name.rpartition('.')
    words = {**SHARES, **GRADES}[measure_]
    return f'{words} of the {region}' if region else words


def _accepted(bounds) -> str:
    if isinstance(bounds[0], str):
        return ' or '.join(bounds)
    low, high = bounds
    parts = ([f'at least {low:g} %'] if low > 0 else []) + ([f'less than {high:g} %'] if high < math.inf else [])
    return ' and '.join(parts) or 'anything'


def _in_words(alternative: dict, values: dict) -> str:
    return ', '.join(_one(name, bounds, values, 'this band takes') for name, bounds in alternative.items())


def _failure(alternative: dict, values: dict) -> str:
    return next((_one(name, bounds, values, 'that band takes') for name, bounds in alternative.items()
                 if not _holds(values[name], bounds)), 'an earlier band applies')


def _one(name: str, bounds, values: dict, verb: str) -> str:
    value = values[name]
    shown = value if isinstance(value, str) else f'{value:.1f} %'
    return f'{_title(name)} is {shown} ({verb} {_accepted(bounds)})'


MASK_EXTENSIONS = ('.png', '.webp', '.bmp', '.tif', '.tiff', '.jpg', '.jpeg')


def find_mask(folder: str | os.PathLike, picture: str | os.PathLike, base: str | os.PathLike) -> Path:
    """The mask of a picture: <folder>/<its place below base>, with one of MASK_EXTENSIONS after its own or in place of it.

    Raises:
        CriteriaError: there is none.
    """
    place = Path(folder) / os.path.relpath(os.path.abspath(picture), os.path.abspath(base))
    extensions = [e for lower in MASK_EXTENSIONS for e in (lower, lower.upper())]
    # a.jpg.png first: beside a.jpg there may be a picture a.png, whose mask a.png is.
    for path in [*(place.with_name(place.name + e) for e in extensions), *(place.with_suffix(e) for e in extensions)]:
        if path.is_file():
            return path
    raise CriteriaError(f'{picture}: no mask, {place.with_suffix(".png")} is not there')


def all_grey(mask: Image.Image) -> bool:
    """Whether a palette picture shows greys alone: no class labels then, for programs that save palettes put any grey at any place."""
    return all(len(set(color)) == 1 for _, color in mask.convert('RGB').getcolors(256))


def read_mask(path: str | os.PathLike, shape: tuple) -> np.ndarray:
    """(H, W) bool, true on the subject, for a picture of `shape` (H, W).

    A palette of colours: every index but 0 (class labels). Transparency: what is more opaque than not (cut-outs). Else
    grey, that of a palette of greys too: 128 and more (32896 where there is one above 255), or every value but 0 where there is none above 1.
    Another size of the same shape is brought to the picture's.

    Raises:
        CriteriaError: the file cannot be read, or its sides have another proportion (2 % off), as a mask that lacks the
            picture's EXIF rotation.
    """
    try:
        with Image.open(path) as mask:
            mask.load()
            if mask.mode == 'P' and 'transparency' not in mask.info and not all_grey(mask):
                subject = np.asarray(mask) != 0
            elif mask.mode in ('RGBA', 'LA', 'P') and (alpha := np.asarray(mask.convert('RGBA').getchannel('A'))).min() < 255:
                subject = alpha >= 128
            else:
                # 16 bit as they are: convert('L') would cut them off at 255.
                grey = np.asarray(mask if mask.mode in ('1', 'L') or mask.mode.startswith('I;16') else mask.convert('L'))
                subject = grey != 0 if grey.max() <= 1 else grey >= (128 if grey.max() <= 255 else 32896)
    except Exception as error:  # damaged data makes decoders raise nearly any type
        raise CriteriaError(f'{path}: not a readable mask ({" ".join(str(error).split())})') from error
    height, width = shape
    if subject.shape == (height, width):
        return subject
    if abs(subject.shape[0] * width - subject.shape[1] * height) > 0.02 * subject.shape[0] * width:
        raise CriteriaError(f'{path}: the mask is {subject.shape[1]} x {subject.shape[0]}, but the picture {width} x {height}')
    small = Image.fromarray(subject.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small) != 0
