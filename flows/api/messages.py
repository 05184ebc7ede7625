"""Name options in messages as Python does: ``on_bad_block`` where the command line has ``--on-bad-block``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from seamline.model.spec.errors import ModelError
from seamline.pipeline.common.errors import DamagedSceneError, InputError

P = ParamSpec("P")
T = TypeVar("T")

_OPTION = re.compile(r"(`[^`]*`)|(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
"""An option of the command line; what stands between backticks is a command, and stays."""


def name_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function whose errors name its arguments and the fields of its options; ``seamline`` has such ones.

    What the command line calls keeps the names of the command line.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            error.what, error.fix = to_arguments(error.what), to_arguments(error.fix)
            error.got, error.expected = to_arguments(str(error.got)), to_arguments(str(error.expected))
            raise
        except DamagedSceneError as error:
            error.fix = to_arguments(error.fix)
            raise
        except ModelError as error:
            error.args = (to_arguments(str(error)),)
            raise

    return call


def to_arguments(text: str) -> str:
    """Return a text that names options as Python does."""
    return _OPTION.sub(lambda found: found[1] or found[2].replace("-", "_"), text)
