"""Damage files of every kind, open them as the commands do, and tell what neither works nor says one line.

python -m tests.fuzz --kind vrt --number 123     one mutation: its file, which stays, and what happened
python -m tests.fuzz --count 10000 --seed 7      many, of all kinds; exit code 1 if any fails
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.kinds import KINDS, damage_variant, spread_over_kinds
from tests.fuzz.regressions import REGRESSIONS
from tests.fuzz.trials import Outcome
from tests.fuzz.workers import make_place, try_mutations

_NUMBERS_PER_SEED = 1_000_000


def main() -> int:
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="seamline-fuzz-"))
    kinds = arguments.kind or list(KINDS)
    if arguments.number is not None:
        mutations = [(kind, arguments.number) for kind in kinds]
    else:
        start = arguments.seed * _NUMBERS_PER_SEED
        mutations = [*REGRESSIONS, *spread_over_kinds(arguments.count, start)]
        mutations = [(kind, number) for kind, number in dict.fromkeys(mutations) if kind in kinds]
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with make_place(root, kinds) as place:
        for outcome in try_mutations(mutations, place):
            outcomes.append(outcome)
            if outcome.failure or arguments.number is not None or arguments.verbose:
                print(outcome, flush=True)
        if arguments.number is not None:
            for kind, number in mutations:
                folder = place.get_folder(kind, number)
                if not folder.exists():
                    damage_variant(kind, number, place.seeds, folder, place.server)
                print(f"{damage_variant(kind, number, place.seeds, root / 'kept' / kind, place.server)}")
    _print_summary(outcomes, time.monotonic() - started)
    return int(any(outcome.failure for outcome in outcomes))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be given several times")
    parser.add_argument("--number", type=int, help="only the mutation of this number, of each kind")
    parser.add_argument("--count", type=int, default=500, help="mutations of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other mutations")
    parser.add_argument("--verbose", action="store_true", help="tell all mutations")
    return parser.parse_args()


def _print_summary(outcomes: list[Outcome], seconds: float) -> None:
    total, fine = Counter(outcome.kind for outcome in outcomes), Counter(o.kind for o in outcomes if o.said == "ok")
    failed = Counter(outcome.kind for outcome in outcomes if outcome.failure)
    spent: Counter[str] = Counter()
    for outcome in outcomes:
        spent[outcome.kind] += outcome.seconds
    for kind in total:
        print(f"{kind:9} {total[kind]:6} tried {fine[kind]:6} work {failed[kind]:4} fail {spent[kind]:8.1f} s")
    print(f"{sum(total.values())} mutations, {sum(failed.values())} failures, {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
