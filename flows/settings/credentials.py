"""How object storage is reached, from the environment or a Prefect Secret block, here and on the workers.

Credentials travel in no parameter, record or log: a run names the block, and what the block holds goes to the workers
in a plugin of Dask, whose ``repr`` does not show it. Without a block each worker asks its own environment.
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

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.cluster import connect
from seamline.pipeline.storage.s3_access import S3Access, use_access

AWS_VARIABLES = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
_TRUE_VALUES = ("1", "yes", "true", "on")


def use_credentials(credentials: str | None) -> None:
    """Reach object storage from now on with what the Secret block ``credentials`` holds, or as the environment says.

    Raises:
        InputError: there is no such block, or it holds something else.
    """
    use_access(read_environment_access(os.environ) if credentials is None else _load_secret_access(credentials))


@contextmanager
def connect_with_credentials(credentials: str | None, cluster: str, workers: int) -> Iterator[Client]:
    """Connect as ``execution.cluster.connect``, with workers that reach object storage as this process does."""
    with connect(cluster, workers) as client:
        client.register_plugin(_CredentialsPlugin(None if credentials is None else _load_secret_access(credentials)))
        yield client


class _CredentialsPlugin(WorkerPlugin):  # type: ignore[misc]
    """Tells each worker process, also one that joins later, how object storage is reached: one way for a cluster."""

    name = "seamline-object-storage"

    def __init__(self, access: S3Access | None) -> None:
        self._access = access

    def setup(self, worker: Worker) -> None:
        use_access(self._access or read_environment_access(os.environ))


def read_environment_access(environment: Mapping[str, str]) -> S3Access:
    """What the variables of Amazon's tools and of GDAL say, or the profile that they name."""
    given = {name: environment.get(variable) or None for name, variable in AWS_VARIABLES.items()}
    unsigned = environment.get("AWS_NO_SIGN_REQUEST", "").lower() in _TRUE_VALUES
    profile = {} if given["key"] or unsigned else _read_profile(environment)
    return S3Access(
        endpoint=_read_endpoint(environment) or profile.get("endpoint_url"),
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region"),
        unsigned=unsigned,
        **(
            given if given["key"] else {name: profile.get(variable.lower()) for name, variable in AWS_VARIABLES.items()}
        ),
    )


def _read_endpoint(environment: Mapping[str, str]) -> str | None:
    """As a URL; GDAL's variable has none."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := environment.get(name):
            return url
    address = environment.get("AWS_S3_ENDPOINT")
    if not address or "://" in address:
        return address or None
    return f"{'http' if environment.get('AWS_HTTPS', '').upper() == 'NO' else 'https'}://{address}"


def _read_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """Keys, region and endpoint of ``AWS_PROFILE``, or of the default profile, in the files of Amazon's tools."""
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    name = environment.get("AWS_PROFILE", "default")
    parser = configparser.RawConfigParser()
    try:
        parser.read([environment.get("AWS_CONFIG_FILE", home / "config"),
                     environment.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")])  # fmt: skip
    except (configparser.Error, UnicodeDecodeError):
        return {}  # not said in its words, which may be a line with a key
    sections = (section for section in (f"profile {name}", name) if parser.has_section(section))
    return {key: value for section in sections for key, value in parser.items(section)}


def _load_secret_access(block: str) -> S3Access:
    from prefect.blocks.system import Secret  # seconds, which only those pay who ask for it

    try:
        held: Any = Secret.load(block).get()  # type: ignore[union-attr]
    except ValueError:
        raise _secret_block_error(block, "no such block") from None
    try:
        fields: Any = json.loads(held) if isinstance(held, str) else held
        known = {"endpoint": "AWS_ENDPOINT_URL", "region": "AWS_REGION", **AWS_VARIABLES}
        if not isinstance(fields, dict) or not fields or set(fields) - set(known.values()):
            raise ValueError
        if not all(isinstance(value, str) for value in fields.values()):
            raise ValueError
    except ValueError:
        raise _secret_block_error(block, "something else") from None  # which is as secret as what was expected
    held_fields: dict[str, Any] = {name: fields.get(variable) for name, variable in known.items()}
    return S3Access(**held_fields)


def _secret_block_error(block: str, got: str) -> InputError:
    return InputError(
        f"Secret block {block}",
        got=got,
        expected='JSON as {"AWS_ACCESS_KEY_ID": …, "AWS_SECRET_ACCESS_KEY": …}, with AWS_SESSION_TOKEN, AWS_REGION and'
        " AWS_ENDPOINT_URL where they are needed",
        fix="correct the block in Prefect, or --credentials",
    )
