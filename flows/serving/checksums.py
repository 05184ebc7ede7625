"""Compare files with the checksums of their items in the background, while the server answers."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from seamline.pipeline.stac.assets import compute_file_info

_FileState = tuple[Path, int, int, str]
"""Path, size, time of modification (ns) and expected checksum."""


class ChecksumMonitor:
    """Finds files whose checksum is not the one that their item states.

    One thread reads the files one after the other, each once for every size and time of modification. A file that has
    not been read yet counts as right.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_FileState] = SimpleQueue()
        self._is_right: dict[_FileState, bool] = {}
        self._lock = Lock()
        self.wrong_files = 0
        """Number of files that were found to differ."""

    def is_known_wrong(self, path: Path, checksum: str, start_check: bool = True) -> bool:
        """Return whether a file is known to differ from its checksum.

        Args:
            path: The file.
            checksum: Its ``file:checksum`` in the item, a multihash.
            start_check: Have the file read in the background if it has not been read yet.

        Returns:
            True only if the file was read and its checksum is another.
        """
        status = path.stat()
        state = (path, status.st_size, status.st_mtime_ns, checksum)
        with self._lock:
            if start_check and state not in self._is_right:
                if not self._is_right:
                    Thread(target=self._read_files, daemon=True).start()  # daemon: the server may end meanwhile
                self._is_right[state] = True
                self._queue.put(state)
            return not self._is_right.get(state, True)

    def _read_files(self) -> None:
        while True:
            path, _, _, checksum = state = self._queue.get()
            try:
                is_right = compute_file_info(path)["file:checksum"] == checksum
            except OSError:  # replaced meanwhile; the new file has another state and is checked by itself
                is_right = True
            with self._lock:
                self._is_right[state] = is_right
                self.wrong_files += not is_right
