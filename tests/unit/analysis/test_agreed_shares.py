"""The share of observations that agree is found again from the layers of a map, which have it rounded."""

from __future__ import annotations

import numpy as np

from seamline.pipeline.analysis.transitions import compute_agreed_shares
from seamline.pipeline.fusion.fusing import _to_share


def test_shares_of_fewer_than_250_observations_are_exact() -> None:
    for count in (*range(1, 250), 250, 1000, 65534):
        agreed, all_of_them = np.arange(count + 1), np.full(count + 1, count, np.uint16)
        found = compute_agreed_shares(_to_share(agreed, all_of_them.astype(np.int64)), all_of_them)
        off = np.abs(found - agreed / count).max()
        assert off == 0 if count < 250 else off <= 1 / 500 + 1 / count
