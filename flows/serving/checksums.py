"""Is a file that is shown still the one that was published: looked at once, beside the answers."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from seamline.pipeline.stac.assets import compute_file_info

_FileState = tuple[Path, int, int, str]


class ChecksumMonitor:
    """Which files are other than their items say: each is read once for every size and time that it has.

    One thread reads, one file after the other; what has not been read yet passes.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[_FileState] = SimpleQueue()
        self._right: dict[_FileState, bool] = {}
        self._lock = Lock()

    def is_known_wrong(self, path: Path, checksum: str, look: bool = True) -> bool:
        """Whether ``path`` is known to be another than that of ``checksum``; ``look`` has it read if it was not yet."""
        state = path.stat()
        seen = (path, state.st_size, state.st_mtime_ns, checksum)
        with self._lock:
            if look and seen not in self._right:
                if not self._right:
                    Thread(target=self._read, daemon=True).start()  # which keeps no server from ending
                self._right[seen] = True
                self._asked.put(seen)
            return not self._right.get(seen, True)

    def _read(self) -> None:
        while True:
            path, _, _, checksum = seen = self._asked.get()
            try:
                right = compute_file_info(path)["file:checksum"] == checksum
            except OSError:  # it was exchanged, and is another now
                right = True
            with self._lock:
                self._right[seen] = right
