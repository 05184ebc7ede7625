"""The exceptions of the pipeline. The message of each is one line that says what to do next."""

from __future__ import annotations

from seamline.errors import SeamlineError as SeamlineError
from seamline.errors import redact_address as redact_address
from seamline.errors import redact_secrets as redact_secrets
from seamline.errors import to_plain_line as to_plain_line

_LONGEST_PARTS = (500, 800, 400, 250)
"""Characters of the four parts of an ``InputError``, which begin and end even where a file's content is quoted."""


class InputError(SeamlineError):
    """The user's input cannot be used; raised before any inference. Exit code 2 on the command line.

    The message is one line made of the four attributes.

    Attributes:
        what: What is wrong.
        got: What was found.
        expected: What was expected.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(what, got, expected, fix)
        self.what, self.got, self.expected, self.fix = what, got, expected, fix

    def __reduce__(self) -> tuple[object, ...]:
        # Errors of workers are pickled, and the default of Exception would lose the keyword arguments.
        return _rebuild_input_error, (type(self), self.what, str(self.got), str(self.expected), self.fix)

    def __str__(self) -> str:
        parts = (str(part) for part in (self.what, self.got, self.expected, self.fix))
        what, got, expected, fix = (to_plain_line(*pair) for pair in zip(parts, _LONGEST_PARTS, strict=True))
        return f"{what}: got {got}, expected {expected}; {fix}"


class UnusableSceneError(InputError):
    """The scene itself cannot be used: the same files fail again with the same model and options."""


class DamagedFileError(InputError):
    """A file that Seamline wrote is not as it was written."""


class InUseError(InputError):
    """The scene is being segmented by another process."""


class OtherRunError(InputError):
    """The scene's folder holds a run of another scene, model or plan; it is replaced only on request."""


def _rebuild_input_error(kind: type[InputError], what: str, got: str, expected: str, fix: str) -> InputError:
    return kind(what, got=got, expected=expected, fix=fix)


class BadBlockError(SeamlineError):
    """A block of a source file cannot be read although the file could be opened. Names file, band and window."""


class ChunkError(SeamlineError):
    """A chunk failed on a worker. Names scene, chunk, file and the error, whose traceback is in the worker's log."""


class RunError(SeamlineError):
    """A run cannot continue or its results cannot be published."""


class DamagedSceneError(RunError):
    """The published files of a scene cannot be read, as a map that is made of them finds out.

    Attributes:
        scene: id of the scene.
        problem: which file cannot be read, and why.
        fix: what the user can do.
    """

    def __init__(self, scene: str, problem: str) -> None:
        super().__init__(scene, problem)
        self.scene, self.problem = scene, problem
        self.fix = (
            "`seamline verify` tells more; segment the scene again with --overwrite, or leave it out of the map with "
            "--on-bad-scene skip"
        )

    def __str__(self) -> str:
        return to_plain_line(f"scene {self.scene}: {self.problem}; {self.fix}")
