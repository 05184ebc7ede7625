"""Folders of objects in object storage that speaks S3.

An object appears whole or not at all, and it cannot be renamed. A writer that replaces an object names the version
that it read, so that a change by another writer is noticed (``ObjectFolder.compare_and_swap``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from mimetypes import guess_type
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.storage.s3_access import S3Access, current_access, open_cached_store, translate_errors

with suppress(ModuleNotFoundError):  # an extra, without which there is no ObjectFolder
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError
    from obstore.store import S3Store

T = TypeVar("T")
S = TypeVar("S")

_MAX_CONCURRENT_REQUESTS = 16
"""Requests that are in flight at once: with small objects the latency of the network counts, not its bandwidth."""
_PROBE_TIMEOUT = 20.0
"""Seconds that a request without data may take, and after which it is not tried again."""
_SCHEME = "s3://"
_CONTENT_TYPES = {
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".tif": "image/tiff",
    ".qml": "application/xml",
    ".gpkg": "application/geopackage+sqlite3",
    ".pmtiles": "application/vnd.pmtiles",
}


def is_object_url(path: str) -> bool:
    """Return whether an address names an object or a folder of objects: ``s3://…``."""
    return path.startswith(_SCHEME)


@dataclass(frozen=True)
class StoredObject:
    """The content of an object and its ``version``: the ETag, which changes with the content."""

    data: bytes
    version: str


@dataclass(frozen=True)
class ObjectFolder:
    """All objects of a bucket whose keys begin with a prefix. The methods take keys relative to the prefix.

    Every method raises ``InputError`` where access is denied or the bucket does not exist, and ``RunError`` where the
    server does not answer. The messages contain no credentials.

    Attributes:
        bucket: Name of the bucket.
        prefix: Path of the folder without slashes around it; empty for the whole bucket.
        access: How the bucket is reached.
    """

    bucket: str
    prefix: str
    access: S3Access

    def __post_init__(self) -> None:
        require_extras(f"object storage {self}", "s3")

    @classmethod
    def from_url(cls, url: str, access: S3Access | None = None) -> ObjectFolder:
        """Return the folder at ``s3://bucket/prefix``, reached by ``access`` or else the current access.

        Raises:
            InputError: ``url`` is another kind of address.
        """
        parts = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
        names = [name for name in (parts[2] or "").split("/") if name] if parts else []
        if parts is None or any(name in (".", "..") for name in names):
            raise InputError(
                "address of object storage",
                got=url,
                expected="s3://bucket/prefix, a bucket's name of 3 to 63 letters, digits, dots and hyphens",
                fix="correct it",
            )
        return cls(parts[1], "/".join(names), access or current_access())

    def __str__(self) -> str:
        return self.to_url()

    def to_url(self, key: str = "") -> str:
        """Return the ``s3://`` address of an object, or of the folder."""
        return _SCHEME + "/".join(part for part in (self.bucket, self.prefix, key) if part)

    def subfolder(self, name: str) -> ObjectFolder:
        """Return a folder in this one."""
        return ObjectFolder(self.bucket, self._full_key(name), self.access)

    @property
    def _store(self) -> S3Store:
        # No field, because a client cannot be pickled and folders travel between processes.
        return open_cached_store(self.access, self.bucket)

    def _full_key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def get_version(self, key: str) -> str | None:
        """Return the ETag of an object; None if it does not exist."""
        found = self._read_head(key)
        return None if found is None else str(found["e_tag"])

    def get_size(self, key: str) -> int | None:
        """Return how many bytes an object has; None if it does not exist."""
        found = self._read_head(key)
        return None if found is None else int(found["size"])

    def _read_head(self, key: str) -> Mapping[str, Any] | None:
        with translate_errors(self.bucket, self.access):
            try:
                return obstore.head(self._store, self._full_key(key))
            except FileNotFoundError:
                self._check_bucket()
                return None

    def get(self, key: str) -> StoredObject | None:
        """Return an object; None if it does not exist."""
        with translate_errors(self.bucket, self.access):
            try:
                found = obstore.get(self._store, self._full_key(key))
                return StoredObject(bytes(found.bytes()), str(found.meta["e_tag"]))
            except FileNotFoundError:
                self._check_bucket()
                return None

    def get_start(self, key: str, size: int) -> bytes:
        """Return the first bytes of an object, at most ``size``; none if it does not exist or is empty."""
        there = self.get_size(key) or 0
        with translate_errors(self.bucket, self.access):
            try:
                return (
                    bytes(obstore.get_range(self._store, self._full_key(key), start=0, end=min(size, there)))
                    if there
                    else b""
                )
            except FileNotFoundError:
                return b""

    def put(self, key: str, data: bytes | Path) -> None:
        """Write bytes or the content of a file to an object, whatever was there before."""
        with translate_errors(self.bucket, self.access):
            obstore.put(self._store, self._full_key(key), data, attributes=_content_attributes(key))

    def copy(self, source: str, target: str) -> bool:
        """Copy an object of up to 5 GB to another key; the server does it, and no byte of it travels.

        Returns:
            False, and nothing written, if there is no object to be copied.
        """
        with translate_errors(self.bucket, self.access):
            try:
                obstore.copy(self._store, self._full_key(source), self._full_key(target))
            except FileNotFoundError:
                self._check_bucket()
                return False
            return True

    def compare_and_swap(self, key: str, data: bytes, known: str | None) -> bool:
        """Write an object only if nobody has changed it since its version was read.

        Args:
            key: Key of the object.
            data: New content.
            known: ETag that was read before; None if there was no object.

        Returns:
            False, and nothing written, if the object has another version or was created or removed meanwhile.
        """
        with translate_errors(self.bucket, self.access):
            try:
                mode: Any = "create" if known is None else {"e_tag": known}
                obstore.put(self._store, self._full_key(key), data, mode=mode, attributes=_content_attributes(key))
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError:
                self._check_bucket()
                return False
            return True

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly in this one, in order."""
        with translate_errors(self.bucket, self.access):
            found = obstore.list_with_delimiter(self._store, self.prefix or None)
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Return keys and sizes in bytes of all objects below a folder of this one, in order of the keys."""
        return {key: int(meta["size"]) for key, meta in self._list_objects(folder)}

    def list_versions(self) -> dict[str, str]:
        """Return keys and ETags of all objects, in order of the keys."""
        return {key: str(meta["e_tag"]) for key, meta in self._list_objects("")}

    def _list_objects(self, folder: str) -> list[tuple[str, Any]]:
        """Return keys and metadata of all objects below a folder of this one, in order of the keys."""
        start = "/".join(part for part in (self.prefix, folder) if part)
        cut = len(self.prefix) + 1 if self.prefix else 0
        with translate_errors(self.bucket, self.access):
            found = [meta for batch in obstore.list(self._store, start or None) for meta in batch]
        return sorted(((meta["path"][cut:], meta) for meta in found), key=itemgetter(0))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; keys without an object are allowed."""
        names = [self._full_key(key) for key in keys]
        with translate_errors(self.bucket, self.access):
            if names:
                obstore.delete(self._store, names)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file, whose folder is created.

        Raises:
            RunError: The object does not exist.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with translate_errors(self.bucket, self.access), path.open("wb") as file:
            try:
                for part in obstore.get(self._store, self._full_key(key)).stream():
                    file.write(part)
            except FileNotFoundError:
                raise RunError(f"{self.to_url(key)} is not there, although its item names it") from None

    def check_writable(self, what: str) -> None:
        """Write and remove an empty object, to see that the folder can be written to.

        A server that takes the request and says nothing is not waited for as long as one that takes data.

        Raises:
            InputError: It cannot; the message begins with ``what``.
        """
        probe = self._full_key(f".seamline-{uuid.uuid4().hex}")
        store = self.access.open_store(self.bucket, timeout=_PROBE_TIMEOUT, retry_timeout=_PROBE_TIMEOUT)
        try:
            with translate_errors(self.bucket, self.access):
                obstore.put(store, probe, b"")
                obstore.delete(store, [probe])
        except RunError as error:
            raise InputError(
                what,
                got=error,
                expected="object storage that can be written to",
                fix="check the endpoint and the network",
            ) from error

    def _check_bucket(self) -> None:
        """Raise obstore's error if the bucket is missing: requests for one object do not tell which of both is."""
        obstore.list_with_delimiter(self._store, self.prefix or None)


def split_object_url(url: str) -> tuple[ObjectFolder, str]:
    """Return the folder and the key of the object at ``s3://bucket/…/key``."""
    place, _, key = url.rpartition("/")
    return ObjectFolder.from_url(place), key


def map_concurrently(work: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
    """Yield the results of a function that makes requests, called for several things at a time in threads.

    The results come in no particular order. After an error no further calls are started, and the error is raised.

    Args:
        work: The function.
        things: Its arguments; taken only a little ahead of the results.
    """
    remaining = iter(things)
    with ThreadPoolExecutor(_MAX_CONCURRENT_REQUESTS) as threads:
        running = {threads.submit(work, thing) for thing in islice(remaining, 2 * _MAX_CONCURRENT_REQUESTS)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            try:
                yield from (future.result() for future in done)
            except BaseException:
                for future in running:
                    future.cancel()
                raise
            running |= {threads.submit(work, thing) for thing in islice(remaining, len(done))}


def _content_attributes(key: str) -> Any:
    content_type = _CONTENT_TYPES.get(Path(key).suffix) or guess_type(key)[0] or "application/octet-stream"
    return {"Content-Type": content_type}
