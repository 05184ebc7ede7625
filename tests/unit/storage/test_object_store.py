"""The environment that Amazon's tools read."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.flows.settings.credentials import read_environment_access
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.s3_access import S3Access


def test_the_environment_is_read_as_amazons_tools_read_it(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = k\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text("[profile other]\nregion = eu-west-1\n")
    profile = {
        "AWS_PROFILE": "other",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    assert read_environment_access(profile) == S3Access(None, "eu-west-1", "k", "s")
    gdals = {"HOME": str(tmp_path), "AWS_S3_ENDPOINT": "here:9000", "AWS_HTTPS": "NO", "AWS_NO_SIGN_REQUEST": "YES"}
    assert read_environment_access(gdals) == S3Access("http://here:9000", unsigned=True)
    assert read_environment_access({"HOME": str(tmp_path)}) == S3Access()
    with pytest.raises(InputError, match="one half of a key"):
        read_environment_access({"AWS_ACCESS_KEY_ID": "k"})
