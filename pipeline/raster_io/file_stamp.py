"""Whether a local file is still the one that a run began with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileStamp:
    """What tells a file from another one at its path, or from itself after it was written to.

    Attributes:
        path: The file.
        size: Bytes.
        changed: Time of the last change of content, in ns since 1970. Programs that copy set that of the original.
        inode: Number of the file on this machine; other machines may see another one.
        touched: Time of the last change of anything about the file, in ns since 1970, which no program can set. Other
            machines may see another one.
    """

    path: str
    size: int
    changed: int
    inode: int
    touched: int

    @staticmethod
    def read(path: str | Path) -> FileStamp:
        """Return the stamp of a file.

        Raises:
            OSError: There is none.
        """
        found = Path(path).stat()
        return FileStamp(str(path), found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)

    def describe_change(self, *, same_machine: bool) -> str | None:
        """Return in words what happened to the file; None if nothing did.

        Args:
            same_machine: Whether the stamp was read on this machine, so that the number of the file and the time that
                no program can set count, too. A new link or new permissions change that time as a rewrite does.
        """
        try:
            now = FileStamp.read(self.path)
        except OSError as error:
            return f"{self.path} can no longer be opened: {error.strerror}"
        is_same = (now.size, now.changed) == (self.size, self.changed)
        if not is_same or (same_machine and now.inode != self.inode):
            return f"{self.path} was changed or replaced while the run read it: segment it again with --overwrite"
        if same_machine and now.touched != self.touched:
            return (
                f"{self.path} was changed or replaced while the run read it, or its name, links, owner or permissions"
                " were: run the same command again, which goes on if its content is the same"
            )
        return None


def describe_changed_file(stamps: Iterable[FileStamp], *, same_machine: bool = False) -> str | None:
    """Return in words what happened to the first file that is not as it was; None if all are.

    Args:
        stamps: What the files were.
        same_machine: Whether the stamps were read on this machine.
    """
    return next((change for stamp in stamps if (change := stamp.describe_change(same_machine=same_machine))), None)
