"""Access to object storage, from the environment or a Prefect Secret block, in this process and on the workers.

Keys appear in no parameter, record or log. A run names the block only. A Dask plugin, whose ``repr`` hides the keys,
takes the block's content to the workers. Without a block each worker reads its own environment.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Worker, WorkerPlugin

from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.cluster.plugins import add_plugin
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import explain_missing_extra
from seamline.pipeline.storage.s3_access import S3Access, use_access

_AWS_VARIABLES = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
"""Environment variable of each key field of ``S3Access``."""

_SECRET_FIELDS = {"endpoint": "AWS_ENDPOINT_URL", "region": "AWS_REGION", **_AWS_VARIABLES}
"""Name in a Secret block of each field of ``S3Access``."""

_TRUE_VALUES = ("1", "yes", "true", "on")


def use_credentials(credentials: str | None) -> None:
    """Set how this process reaches object storage from now on.

    Args:
        credentials: Name of a Prefect Secret block; None for what the environment says.

    Raises:
        InputError: there is no such block, or it holds something else.
    """
    use_access(read_environment_access(os.environ) if credentials is None else _load_secret_access(credentials))


@contextmanager
def connect_with_credentials(
    credentials: str | None, cluster: str, workers: int, threads: int = CHUNKS_AT_ONCE
) -> Iterator[Client]:
    """Connect to a Dask cluster whose workers reach object storage with these credentials.

    Args:
        credentials: Name of a Prefect Secret block; None for the environment of each worker.
        cluster: "local", or the address of a Dask scheduler.
        workers: Worker processes of a local cluster.
        threads: Dask threads of each of them.

    Returns:
        A context manager that yields the client.

    Raises:
        InputError: the cluster cannot be reached, or the block cannot be read.
    """
    with connect(cluster, workers, threads) as client:
        give_credentials(client, credentials)
        yield client


def give_credentials(client: Client, credentials: str | None) -> None:
    """Let the workers of a cluster reach object storage with these credentials, also those that join later.

    Args:
        client: Client of the cluster.
        credentials: Name of a Prefect Secret block; None for the environment of each worker.

    Raises:
        InputError: the block cannot be read.
        RunError: no worker could work for long.
    """
    access = None if credentials is None else _load_secret_access(credentials)
    add_plugin(client, _CredentialsPlugin(access), "credentials")


class _CredentialsPlugin(WorkerPlugin):  # type: ignore[misc]
    """Set how each worker process reaches object storage, also one that joins later.

    The name is the same for all runs, so a later run replaces the access that an earlier one set on the cluster.
    """

    name = "seamline-object-storage"

    def __init__(self, access: S3Access | None) -> None:
        self._access = access

    def setup(self, worker: Worker) -> None:
        use_access(self._access or read_environment_access(os.environ))


def read_environment_access(environment: Mapping[str, str]) -> S3Access:
    """Read the access from the variables of Amazon's tools and of GDAL, or from the profile that they name."""
    unsigned = environment.get("AWS_NO_SIGN_REQUEST", "").lower() in _TRUE_VALUES
    keys = {name: environment.get(variable) or None for name, variable in _AWS_VARIABLES.items()}
    profile: dict[str, str] = {}
    if not keys["key"]:
        profile = {} if unsigned else _read_profile(environment)
        keys = {name: profile.get(variable.lower()) for name, variable in _AWS_VARIABLES.items()}
    return S3Access(
        endpoint=_read_endpoint(environment) or profile.get("endpoint_url"),
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region"),
        unsigned=unsigned,
        **keys,
    )


def _read_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the endpoint as a URL; GDAL's variable is a host name, to which a scheme is added."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := environment.get(name):
            return url
    host = environment.get("AWS_S3_ENDPOINT")
    if not host or "://" in host:
        return host or None
    scheme = "http" if environment.get("AWS_HTTPS", "").upper() == "NO" else "https"
    return f"{scheme}://{host}"


def _read_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of ``AWS_PROFILE``, or of the default profile, from the files of Amazon's tools."""
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    config = environment.get("AWS_CONFIG_FILE", home / "config")
    credentials = environment.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")
    parser = configparser.RawConfigParser()
    try:
        parser.read([config, credentials])
    except (configparser.Error, UnicodeDecodeError):
        return {}  # the parser's message is not reported, since it may quote a line with a key
    name = environment.get("AWS_PROFILE", "default")
    settings: dict[str, str] = {}
    for section in (f"profile {name}", name):
        if parser.has_section(section):
            settings.update(parser.items(section))
    return settings


def _load_secret_access(block: str) -> S3Access:
    # Imported here because Prefect takes seconds to import, and only runs with a Secret block need it.
    with explain_missing_extra(f"Secret block {block}", "flows"):
        from prefect.blocks.system import Secret

    try:
        content: Any = Secret.load(block).get()  # type: ignore[union-attr]
    except ValueError:
        raise _secret_block_error(block, "no such block") from None
    try:
        fields: Any = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        fields = None
    if not _are_secret_fields(fields):
        # The content is not reported: it may be a secret, too.
        raise _secret_block_error(block, "something else")
    access: dict[str, Any] = {name: fields.get(variable) for name, variable in _SECRET_FIELDS.items()}
    return S3Access(**access)


def _are_secret_fields(fields: object) -> bool:
    """Whether the content of a Secret block is a mapping of known names to texts."""
    if not isinstance(fields, dict) or not fields or set(fields) - set(_SECRET_FIELDS.values()):
        return False
    return all(isinstance(value, str) for value in fields.values())


def _secret_block_error(block: str, got: str) -> InputError:
    return InputError(
        f"Secret block {block}",
        got=got,
        expected='JSON as {"AWS_ACCESS_KEY_ID": …, "AWS_SECRET_ACCESS_KEY": …}, with AWS_SESSION_TOKEN, AWS_REGION and'
        " AWS_ENDPOINT_URL where they are needed",
        fix="correct the block in Prefect, or --credentials",
    )
