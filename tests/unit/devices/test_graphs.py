"""CUDA graphs: what is recorded, replayed, refused and dropped; by a recorder that keeps the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seamline.model.devices.graphs import GraphedNetwork


class Recorder:
    """Records work by keeping it; may fail, or give other scores."""

    def __init__(self, error: Exception | None = None, offset: float = 0.0) -> None:
        self.recorded = self.replayed = 0
        self._error, self._offset = error, offset

    def record(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        if self._error is not None:
            raise self._error
        self.recorded += 1
        output, recorder = torch.zeros_like(work()), self

        class Recording:
            def replay(self) -> None:
                recorder.replayed += 1
                output.copy_(work() + recorder._offset)

        return Recording(), output


def double(x: Tensor, halo: int) -> Tensor:
    return 2 * x[..., halo : x.shape[-2] - halo, halo : x.shape[-1] - halo]


def make_batches(count: int, size: int = 2) -> list[Tensor]:
    return [torch.full((size, 1, 8, 8), float(number)) for number in range(count)]


def test_the_second_batch_of_a_shape_is_recorded_and_all_later_ones_are_replayed() -> None:
    recorder = Recorder()
    network = GraphedNetwork(double, recorder)
    batches = make_batches(4)
    for count, batch in enumerate(batches):
        assert torch.equal(network(batch, 2), double(batch, 2))
        assert recorder.recorded == (count > 0)
        assert recorder.replayed == (count + 1 if count else 0)  # the second once to be compared, too
    other = make_batches(2, size=3)
    network(other[0], 2)
    network(batches[0], 1)
    assert recorder.recorded == 1
    assert torch.equal(network(other[1], 2), double(other[1], 2))
    assert recorder.recorded == 2


def test_scores_are_the_callers_own() -> None:
    network = GraphedNetwork(double, Recorder())
    batches = make_batches(4)
    found = [network(batch, 0) for batch in batches]
    for scores, batch in zip(found, batches, strict=True):
        assert torch.equal(scores, double(batch, 0))
    assert [float(batch.mean()) for batch in batches] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("recorder", "said"),
    [
        (Recorder(offset=1.0), "gives other scores"),
        (Recorder(RuntimeError("operation not permitted when stream is capturing\nmore")), "operation not permitted"),
        (Recorder(torch.cuda.OutOfMemoryError("CUDA out of memory")), "CUDA out of memory"),
    ],
)
def test_what_cannot_be_recorded_is_run_as_it_is(
    recorder: Recorder, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = GraphedNetwork(double, recorder)
    for batch in make_batches(4):
        assert torch.equal(network(batch, 2), double(batch, 2))
    assert len(caplog.records) == 1 and said in caplog.text and "\nmore" not in caplog.text
    assert recorder.replayed <= 1


def test_after_a_drop_nothing_is_recorded_any_more() -> None:
    recorder = Recorder()
    network = GraphedNetwork(double, recorder)
    for batch in make_batches(3):
        network(batch, 2)
    replayed = recorder.replayed
    network.drop()
    for batch in [*make_batches(3), *make_batches(3, size=1)]:
        assert torch.equal(network(batch, 2), double(batch, 2))
    assert (recorder.recorded, recorder.replayed) == (1, replayed)
