"""Object storage that speaks S3: how it is reached, and a folder of objects in it.

GDAL reads scenes, obstore everything else; both are configured from one ``S3Access``. Objects appear whole or not at
all, and are renamed by nobody: what replaces another object says which one it knew (``ObjectFolder.swap``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from mimetypes import guess_type
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from seamline.pipeline.common.errors import InputError, RunError

T = TypeVar("T")
S = TypeVar("S")

MAX_CONCURRENT_REQUESTS = 16
"""Requests on their way at once: small objects wait for the network, not for it to have room."""
_SCHEME = "s3://"
_CONTENT_TYPES = {".json": "application/json", ".parquet": "application/vnd.apache.parquet", ".tif": "image/tiff",
          ".qml": "application/xml", ".gpkg": "application/geopackage+sqlite3"}  # fmt: skip


@dataclass(frozen=True)
class S3Access:
    """How object storage is reached. What is ``None`` GDAL and obstore find themselves, as on a cloud's machines.

    ``endpoint``: URL of a server other than Amazon's. ``unsigned``: public buckets, no keys. No ``repr`` shows keys.
    """

    endpoint: str | None = None
    region: str | None = None
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    unsigned: bool = False

    def __post_init__(self) -> None:
        if (self.key is None) != (self.secret is None):
            raise InputError(
                "credentials of object storage", got="one half of a key", expected="its id and its secret, or neither",
                fix="give both",
            )  # fmt: skip
        if self.endpoint is not None and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise InputError(
                "endpoint of object storage", got=self.endpoint, expected="a URL, such as https://s3.example.org",
                fix="correct AWS_ENDPOINT_URL",
            )  # fmt: skip

    def to_gdal_options(self) -> dict[str, str]:
        """The same as GDAL's options."""
        options = {"AWS_NO_SIGN_REQUEST": "YES"} if self.unsigned else {}
        if self.region is not None:
            options["AWS_REGION"] = self.region
        if self.key is not None and self.secret is not None:
            options |= {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
            options["AWS_SESSION_TOKEN"] = self.token or ""  # none, whatever the environment has
        if self.endpoint is not None:
            address = urlsplit(self.endpoint)
            options |= {"AWS_S3_ENDPOINT": address.netloc + address.path.rstrip("/"), "AWS_VIRTUAL_HOSTING": "FALSE"}
            options["AWS_HTTPS"] = "YES" if address.scheme == "https" else "NO"
        return options

    def open_store(self, bucket: str) -> S3Store:
        """The same as obstore's store of a bucket."""
        settings: dict[str, Any] = {"skip_signature": True} if self.unsigned else {}
        if self.region is not None:
            settings["region"] = self.region
        if self.key is not None:
            # Not as settings, beside which obstore would take a token from the environment.
            keys = {"access_key_id": self.key, "secret_access_key": self.secret, "token": self.token}
            settings["credential_provider"] = lambda: {**keys, "expires_at": None}
        if self.endpoint is not None:
            settings |= {"endpoint": self.endpoint.rstrip("/"), "virtual_hosted_style_request": False}
        return S3Store(
            bucket,
            checksum_algorithm="SHA256",  # the server refuses what the network changed
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=120),
            },
            retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=60)},
            **settings,
        )


@lru_cache(maxsize=16)
def _cached_store(access: S3Access, bucket: str) -> S3Store:
    """With its connections; no part of a folder, which travels between processes."""
    return access.open_store(bucket)


_current_access = S3Access()


def use_access(access: S3Access) -> None:
    """Reach object storage so, in this process, from now on. Who starts a process or a run says it."""
    global _current_access
    _current_access = access


def current_access() -> S3Access:
    """What ``use_access`` was told last."""
    return _current_access


def is_object_url(path: str) -> bool:
    """Whether an address names an object or a folder of objects: ``s3://…``."""
    return path.startswith(_SCHEME)


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read; ``version`` is its ETag, another one for other content."""

    data: bytes
    version: str


@dataclass(frozen=True)
class ObjectFolder:
    """What lies below ``prefix`` (``""``, or a path without slashes around it) in a bucket.

    Keys are relative to it. Every method raises ``InputError`` where access is denied or the bucket is not there, and
    ``RunError`` where the server does not answer; neither says anything of keys.
    """

    bucket: str
    prefix: str
    access: S3Access

    @classmethod
    def from_url(cls, url: str, access: S3Access | None = None) -> ObjectFolder:
        """The folder at ``s3://bucket/prefix``. Raises ``InputError`` for another address."""
        parts = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
        names = [name for name in (parts[2] or "").split("/") if name] if parts else []
        if parts is None or any(name in (".", "..") for name in names):
            raise InputError(
                "address of object storage", got=url, expected="s3://bucket/prefix, a bucket's name of 3 to 63 letters,"
                " digits, dots and hyphens", fix="correct it",
            )  # fmt: skip
        return cls(parts[1], "/".join(names), access or current_access())

    def __str__(self) -> str:
        return self.to_url()

    def to_url(self, key: str = "") -> str:
        """``s3://…`` of an object, or of the folder."""
        return _SCHEME + "/".join(part for part in (self.bucket, self.prefix, key) if part)

    def subfolder(self, name: str) -> ObjectFolder:
        """A folder in this one."""
        return ObjectFolder(self.bucket, self._full_key(name), self.access)

    @property
    def _store(self) -> S3Store:
        return _cached_store(self.access, self.bucket)

    def _full_key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def get_version(self, key: str) -> str | None:
        """The ETag of an object, ``None`` if there is none."""
        with self._translate_errors():
            try:
                return str(obstore.head(self._store, self._full_key(key))["e_tag"])
            except FileNotFoundError:
                self._check_bucket()
                return None

    def get(self, key: str) -> StoredObject | None:
        """An object, ``None`` if there is none."""
        with self._translate_errors():
            try:
                found = obstore.get(self._store, self._full_key(key))
                return StoredObject(bytes(found.bytes()), str(found.meta["e_tag"]))
            except FileNotFoundError:
                self._check_bucket()
                return None

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object, whatever was there."""
        with self._translate_errors():
            obstore.put(self._store, self._full_key(key), data, attributes=_content_attributes(key))

    def compare_and_swap(self, key: str, data: bytes, known: str | None) -> bool:
        """Write an object in place of the one of version ``known`` (``None``: of none); false if that is gone."""
        with self._translate_errors():
            try:
                mode: Any = "create" if known is None else {"e_tag": known}
                obstore.put(self._store, self._full_key(key), data, mode=mode, attributes=_content_attributes(key))
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError:
                self._check_bucket()
                return False  # removed since
            return True

    def list_folders(self) -> list[str]:
        """The names of the folders directly below, in order."""
        with self._translate_errors():
            found = obstore.list_with_delimiter(self._store, self.prefix or None)
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Keys and bytes of all objects below a folder of this one, in order."""
        return {key: int(meta["size"]) for key, meta in self._list_objects(folder)}

    def list_versions(self) -> dict[str, str]:
        """Keys and ETags of all objects below, in order."""
        return {key: str(meta["e_tag"]) for key, meta in self._list_objects("")}

    def _list_objects(self, folder: str) -> list[tuple[str, Any]]:
        start = "/".join(part for part in (self.prefix, folder) if part)
        cut = len(self.prefix) + 1 if self.prefix else 0
        with self._translate_errors():
            found = [meta for batch in obstore.list(self._store, start or None) for meta in batch]
        return sorted(((meta["path"][cut:], meta) for meta in found), key=itemgetter(0))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, those too that are not there."""
        names = [self._full_key(key) for key in keys]
        with self._translate_errors():
            if names:
                obstore.delete(self._store, names)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file. Raises ``RunError`` if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translate_errors(), path.open("wb") as file:
            try:
                for part in obstore.get(self._store, self._full_key(key)).stream():
                    file.write(part)
            except FileNotFoundError:
                raise RunError(f"{self.to_url(key)} is not there, although its item names it") from None

    def check_writable(self, what: str) -> None:
        """See that objects can be written and removed here; ``what`` names the folder in the ``InputError``."""
        probe = f".seamline-{uuid.uuid4().hex}"
        try:
            self.put(probe, b"")
            self.delete([probe])
        except RunError as error:
            raise InputError(what, got=error, expected="object storage that can be written to",
                             fix="check the endpoint and the network") from error  # fmt: skip

    def _check_bucket(self) -> None:
        """Objects that are not there and buckets that are not there are one answer to a question for an object."""
        obstore.list_with_delimiter(self._store, self.prefix or None)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Errors of the library as our own. Its texts hold requests and answers: only a little is passed on."""
        place = f"s3://{self.bucket}"
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise _access_denied_error(place, error) from None
        except FileNotFoundError:
            raise _no_bucket_error(place) from None
        except NotSupportedError:
            raise _no_conditional_writes_error(place) from None
        except BaseError as error:
            said = str(error)
            code = _error_code(said)
            if code == "NoSuchBucket":
                raise _no_bucket_error(place) from None
            if code == "NotImplemented":
                raise _no_conditional_writes_error(place) from None
            if re.search(r"status code: (400|401|403|301|307)", said):  # of lists; the last two: of another region
                raise _access_denied_error(place, error) from None
            if code is None and "credential" in said.lower():
                raise _access_denied_error(place, "no credentials") from None
            at = self.access.endpoint or "the network"
            raise RunError(
                f"{place} does not answer ({_error_summary(said)}); check {at} and run the same command again"
            ) from None


def split_object_url(url: str) -> tuple[ObjectFolder, str]:
    """The folder and the key of the object at ``s3://bucket/…/key``."""
    place, _, key = url.rpartition("/")
    return ObjectFolder.from_url(place), key


def map_concurrently(work: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
    """``work`` on each of the things, some at once, in no order; after an error no more are begun."""
    left = iter(things)
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as threads:
        running = {threads.submit(work, thing) for thing in islice(left, 2 * MAX_CONCURRENT_REQUESTS)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            try:
                yield from (future.result() for future in done)
            except BaseException:
                for future in running:
                    future.cancel()
                raise
            running |= {threads.submit(work, thing) for thing in islice(left, len(done))}


def _content_attributes(key: str) -> Any:
    suffix = Path(key).suffix
    kind = _CONTENT_TYPES.get(suffix) or guess_type(key)[0] or "application/octet-stream"
    return {"Content-Type": kind}


def _error_code(said: str) -> str | None:
    """What S3's answer calls the error."""
    found = re.search(r"<Code>(\w{1,60})</Code>", said)
    return found[1] if found else None


def _error_summary(said: str) -> str:
    code, status = _error_code(said), re.search(r"status code: (\d{3})", said)
    if code or status:
        return " ".join(part for part in (status and f"HTTP {status[1]}", code) if part)
    line = said.splitlines()[0]
    return line.rsplit(" - ", 1)[-1][:80]


def _access_denied_error(place: str, error: object) -> InputError:
    return InputError(
        f"access to {place}",
        got=_error_summary(str(error)),
        expected="credentials that the bucket takes",
        fix="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL, or name a Secret block"
        " with --credentials",
    )


def _no_bucket_error(place: str) -> InputError:
    return InputError(f"no bucket {place}", got="NoSuchBucket", expected="a bucket that is there",
                      fix="check its name and AWS_ENDPOINT_URL, or make it")  # fmt: skip


def _no_conditional_writes_error(place: str) -> InputError:
    return InputError(
        f"conditional writes to {place}", got="NotImplemented", expected="a server that knows If-Match, as Amazon's",
        fix="publish to another server, or to a folder",
    )  # fmt: skip
