"""Access to object storage that speaks S3: endpoint, credentials, clients, and the meaning of their errors.

GDAL reads scenes, obstore reads and writes everything else. Both are configured from one ``S3Access``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from seamline.pipeline.common.errors import InputError, RunError

with suppress(ModuleNotFoundError):  # an extra, without which there is no ObjectFolder
    from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store


@dataclass(frozen=True)
class S3Access:
    """How object storage is reached. Settings that are None are found by GDAL and obstore, as on a cloud's machines.

    ``repr`` shows no credentials. Raises ``InputError`` for half a key and for an endpoint that is no URL.

    Attributes:
        endpoint: URL of a server other than Amazon's.
        region: Region of the bucket.
        key: Id of the access key.
        secret: Secret of the access key.
        token: Session token of temporary credentials.
        unsigned: Send no credentials, for public buckets.
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
                "credentials of object storage",
                got="one half of a key",
                expected="its id and its secret, or neither",
                fix="give both",
            )
        if self.endpoint is not None and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise InputError(
                "endpoint of object storage",
                got=self.endpoint,
                expected="a URL, such as https://s3.example.org",
                fix="correct AWS_ENDPOINT_URL",
            )

    def to_gdal_options(self) -> dict[str, str]:
        """Return the configuration options of GDAL for this access."""
        options = {"AWS_NO_SIGN_REQUEST": "YES"} if self.unsigned else {}
        if self.region is not None:
            options["AWS_REGION"] = self.region
        if self.key is not None and self.secret is not None:
            options |= {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
            # An empty token overrides one of the environment, which would belong to another key.
            options["AWS_SESSION_TOKEN"] = self.token or ""
        if self.endpoint is not None:
            address = urlsplit(self.endpoint)
            options |= {"AWS_S3_ENDPOINT": address.netloc + address.path.rstrip("/"), "AWS_VIRTUAL_HOSTING": "FALSE"}
            options["AWS_HTTPS"] = "YES" if address.scheme == "https" else "NO"
        return options

    def open_store(self, bucket: str, timeout: float = 60, retry_timeout: float = 60) -> S3Store:
        """Return obstore's client of a bucket for this access.

        Args:
            bucket: Name of the bucket.
            timeout: Seconds that a request may take, with its data.
            retry_timeout: Seconds after the first try in which a request is tried again.
        """
        settings: dict[str, Any] = {"skip_signature": True} if self.unsigned else {}
        if self.region is not None:
            settings["region"] = self.region
        if self.key is not None:
            # A provider, because obstore would add a token of the environment to keys that are given as settings.
            keys = {"access_key_id": self.key, "secret_access_key": self.secret, "token": self.token}
            settings["credential_provider"] = lambda: {**keys, "expires_at": None}
        if self.endpoint is not None:
            settings |= {"endpoint": self.endpoint.rstrip("/"), "virtual_hosted_style_request": False}
        return S3Store(
            bucket,
            checksum_algorithm="SHA256",  # the server refuses data that the network changed
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=timeout),
            },
            retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=retry_timeout)},
            **settings,
        )


@lru_cache(maxsize=16)
def open_cached_store(access: S3Access, bucket: str) -> S3Store:
    """Return the client of a bucket that this process already has, with its connections, or a new one."""
    return access.open_store(bucket)


_current_access = S3Access()


def use_access(access: S3Access) -> None:
    """Set how this process reaches object storage; called once at the start of a process or a run."""
    global _current_access
    _current_access = access


def current_access() -> S3Access:
    """Return the access that was set with ``use_access``."""
    return _current_access


@contextmanager
def translate_errors(bucket: str, access: S3Access) -> Iterator[None]:
    """Raise obstore's errors as ``InputError`` or ``RunError`` that name the bucket.

    The texts of obstore contain whole requests and answers, so only the status and the error code are passed on.

    Args:
        bucket: Name of the bucket that the context uses.
        access: How it is reached.

    Raises:
        InputError: Access is denied, the bucket does not exist or the server has no conditional writes.
        RunError: The server does not answer.
    """
    place = f"s3://{bucket}"
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _access_denied_error(place, error) from None
    except FileNotFoundError:
        raise _no_bucket_error(place) from None
    except NotSupportedError:
        raise _no_conditional_writes_error(place) from None
    except BaseError as error:
        raise _translate_base_error(place, error, access.endpoint) from None


def _translate_base_error(place: str, error: BaseError, endpoint: str | None) -> InputError | RunError:
    """Return the error for an answer that obstore has no exception for."""
    text = str(error)
    code = _error_code(text)
    if code == "NoSuchBucket":
        return _no_bucket_error(place)
    if code == "NotImplemented":
        return _no_conditional_writes_error(place)
    # Listings answer so where access is denied; 301 and 307 mean that the bucket is in another region.
    if re.search(r"status code: (400|401|403|301|307)", text):
        return _access_denied_error(place, error)
    if code is None and "credential" in text.lower():
        return _access_denied_error(place, "no credentials")
    return RunError(
        f"{place} does not answer ({_error_summary(text)}); check {endpoint or 'the network'}"
        " and run the same command again"
    )


def _error_code(text: str) -> str | None:
    """Return the code of the error in S3's answer, such as ``NoSuchBucket``."""
    found = re.search(r"<Code>(\w{1,60})</Code>", text)
    return found[1] if found else None


def _error_summary(text: str) -> str:
    """Return HTTP status and error code of an answer, or the end of the first line of any other error."""
    code, status = _error_code(text), re.search(r"status code: (\d{3})", text)
    if code or status:
        return " ".join(part for part in (status and f"HTTP {status[1]}", code) if part)
    line = text.splitlines()[0]
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
    return InputError(
        f"no bucket {place}",
        got="NoSuchBucket",
        expected="a bucket that is there",
        fix="check its name and AWS_ENDPOINT_URL, or make it",
    )


def _no_conditional_writes_error(place: str) -> InputError:
    return InputError(
        f"conditional writes to {place}",
        got="NotImplemented",
        expected="a server that knows If-Match, as Amazon's",
        fix="publish to another server, or to a folder",
    )
