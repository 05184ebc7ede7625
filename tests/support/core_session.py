"""Commands and calls of one process; started by tests with the Python of an environment that has the core alone.

    python core_session.py '[["plan", "scene.tif", …], …]'

Prints JSON: exit code, output and errors of each command, and what functions of Python return or raise.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence


def run_command(words: Sequence[str]) -> tuple[int, str, str]:
    """Return exit code, output and errors of ``seamline WORDS``."""
    from seamline.flows.cli import main as cli

    sys.argv = ["seamline", *words]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return int(code or 0), out.getvalue(), err.getvalue()  # type: ignore[call-overload]


def describe_error(call: Callable[[], object]) -> str:
    """Return class and message of what a call raises."""
    try:
        call()
    except ImportError as error:
        return f"{[kind.__name__ for kind in type(error).__mro__]}: {error}"
    return "nothing"


def predict_labels() -> list[list[int]]:
    """Return the labels of ``scene.tif``, read as an array."""
    import rioxarray

    import seamline

    array = rioxarray.open_rasterio("scene.tif")
    assert not isinstance(array, list)
    options = seamline.SegmentOptions(window=192, halo=48)
    labels: list[list[int]] = seamline.predict(
        array, "land-water-cloud", scale=0.0001, options=options
    ).segmentation.values.tolist()
    return labels


def main() -> None:
    """Run the commands, then call functions."""
    import seamline

    commands = [run_command(words) for words in json.loads(sys.argv[1])]
    flows = ("segment_scene", "segment_collection", "publish_catalog", "train_model")
    calls: dict[str, Callable[[], object]] = {
        flow: lambda flow=flow: importlib.import_module(f"seamline.flows.{flow}")  # type: ignore[misc]
        for flow in flows
    }
    calls["evaluate"] = lambda: seamline.evaluate("results/scene", "scene.tif")
    answers = {
        "commands": commands,
        "errors": {name: describe_error(call) for name, call in calls.items()},
        "names": sorted(name for name in seamline.__all__ if getattr(seamline, name) is not None),
        "predicted": predict_labels(),
        "opened": seamline.open_result("results", "scene").segmentation.values.tolist(),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
