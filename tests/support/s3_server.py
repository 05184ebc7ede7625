"""An S3 server in a process of its own (moto), that asks for credentials as Amazon does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access

REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """Its address, and how its only user reaches it."""

    url: str
    access: S3Access

    @property
    def client(self) -> Any:
        """Somebody else's library."""
        return boto3.client("s3", **_boto(self.url, self.access.key, self.access.secret))

    @property
    def variables(self) -> dict[str, str]:
        """The environment of somebody who may reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access.key or "",
            "AWS_SECRET_ACCESS_KEY": self.access.secret or "",
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "no_proxy": "127.0.0.1",
        }

    def bucket(self, name: str) -> ObjectFolder:
        """A new bucket."""
        self.client.create_bucket(Bucket=name)
        return ObjectFolder(name, "", self.access)


@contextmanager
def start_s3_server() -> Iterator[S3Server]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        said = next(line for line in process.stdout if "Running on http" in line)
        threading.Thread(target=process.stdout.read, daemon=True).start()  # or its pipe would fill
        url = said.split()[-1]
        iam = boto3.client("iam", **_boto(url, "first", "first"))
        iam.create_user(UserName="user")
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(allowed))
        key = iam.create_access_key(UserName="user")["AccessKey"]
        ask = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(ask).read()  # from here on credentials are asked for
        yield S3Server(url, S3Access(url, REGION, key["AccessKeyId"], key["SecretAccessKey"]))
    finally:
        process.kill()
        process.wait()


def _boto(url: str, key: str | None, secret: str | None) -> dict[str, Any]:
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    return {"endpoint_url": url, "region_name": REGION, **keys}
