"""Failures to write results, as users are told them."""

from __future__ import annotations

from typing import Any

import pytest

from seamline.pipeline.common.errors import ChunkError, RunError
from seamline.pipeline.publishing.publication import raise_as_run_error


def test_a_failure_on_a_worker_says_that_the_same_command_goes_on() -> None:
    context: Any = None  # the error names the scene
    failure = ChunkError("scene a, chunk (0, 0) of a.tif: OSError: [Errno 28] No space left on device")
    with (
        pytest.raises(RunError, match=r"^scene a, .*No space left on device; what was inferred is kept, .* again$"),
        raise_as_run_error(context),
    ):
        raise failure
