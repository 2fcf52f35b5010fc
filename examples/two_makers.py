"""One map, two makers: A deducts 10 points for 20 % over-exposed area, B deducts 30 (the paper's example, section 5.2).

    python examples/two_makers.py                       # a sample picture, too dark at its left, too bright at its right
    python examples/two_makers.py photo.jpg --makers maker_a maker_b my_rules.json

The network judges the picture once; each maker's rules (exposure/criteria/*.json, or a file of your own) turn the same map into that
maker's points, with the reason in words.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.images import read_image
from exposure import Predictor
from exposure.criteria import judge, load_criteria
from exposure.predictor import DEFAULT_CHECKPOINT


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('picture', nargs='?', type=Path, default=ROOT / 'img_to_pred/under_and_over.jpg',
                   help='default: img_to_pred/under_and_over.jpg')
    p.add_argument('--makers', nargs='+', default=['maker_a', 'maker_b'], metavar='NAME|FILE', help='rule sets')
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    args = p.parse_args(argv)
    try:
        rules = [load_criteria(maker) for maker in args.makers]
        if needy := [rule.name for rule in rules if rule.needs_subject]:
            raise ValueError(f'{needy[0]} needs a mask of the subject, which this example has not')
        picture = read_image(args.picture)
        result = Predictor(args.checkpoint).predict(picture)
    except ValueError as error:
        p.error(str(error))
    print(f'over-exposed {result.share_over:.1%} of the area, under-exposed {result.share_under:.1%}')
    for maker, rule in zip(args.makers, rules):
        print(f'{maker}: {judge(result.residual, rule, grey=np.asarray(picture.convert("L"))).why}')


if __name__ == '__main__':
    main()
