"""Images for the tests of ``deploy/``, built by buildah. It needs root, and Debian's buildah and debootstrap.

The base that the Dockerfile names is not fetched. Debian by debootstrap, with its Python, stands in for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deployment_files import DEPLOY, PROJECT

_DOCKERFILE = DEPLOY / "Dockerfile"
_IN_THE_OFFICIAL_BASE = "ca-certificates,netbase,tzdata"
"""Debian's packages that the official image of Python adds to its smallest Debian; Python itself is none of them."""

_POSTGRES = """
set -e
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    initdb --encoding UTF8 --locale C.UTF-8 --auth scram-sha-256 \\
        --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE"
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""


@dataclass(frozen=True)
class Image:
    """An image whose files are mounted.

    Attributes:
        root: Folder of its files.
        environment: Variables of every container.
        user: Number of user and group, ``1000:1000``.
        folder: Working directory of every container.
        command: What runs by default.
        healthcheck: What says whether it is healthy; empty if the image says nothing.
        volumes: Folders that are never part of the image.
    """

    root: Path
    environment: dict[str, str]
    user: str
    folder: str
    command: list[str]
    healthcheck: list[str]
    volumes: list[str]


@dataclass(frozen=True)
class Builder:
    """Buildah with a storage of its own."""

    storage: Path
    driver: str

    def run(self, *arguments: str, log: Path | None = None) -> str:
        """Run buildah and return what it prints."""
        places = ["--root", str(self.storage / "images"), "--runroot", str(self.storage / "run")]
        command = ["buildah", *places, "--storage-driver", self.driver, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
        if log is not None:
            log.write_text(done.stdout + done.stderr)
        assert done.returncode == 0, f"{' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout.strip()

    def build(self, target: str, folder: Path) -> str:
        """Build a target of ``deploy/Dockerfile`` and return the name of the image.

        Args:
            target: Name of the stage.
            folder: Where base, settings and log are written.
        """
        name = f"seamline:{target}"
        (base,) = set(re.findall(r"^FROM (\S+:\S+) AS", _DOCKERFILE.read_text(), re.MULTILINE))
        root = folder / "base"
        _make_base(root, base.rpartition("-")[2])
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, str(root), "/")
        self.run("commit", "--quiet", "--rm", container, f"docker.io/library/{base}")
        shutil.rmtree(root)
        dockerfile = ["--file", str(_DOCKERFILE), "--target", target, "--tag", name, "--format", "docker"]
        places = [word for place in _share_pip(folder) for word in ("--volume", f"{place}:ro")]
        options = ["--isolation", "chroot", "--pull-never", *dockerfile, *places]
        self.run("bud", *options, str(PROJECT), log=folder / "build.log")
        return name

    def mount(self, image: str, container: str) -> Image:
        """Mount the files of an image, as the container of this name, and return what it says of itself."""
        self.run("from", "--pull-never", "--name", container, image)
        return self._describe(container)

    def mount_postgres(self, image: str) -> Image:
        """Mount Debian's Postgres, which starts as the image ``postgres`` does, on top of another image of Debian."""
        self.run("from", "--pull-never", "--name", "postgres", image)
        script = "apt-get update && apt-get install --yes --no-install-recommends postgresql"
        self.run("run", "--isolation", "chroot", "--user", "root", "postgres", "--", "sh", "-c", script)
        made = self._describe("postgres")
        (programs,) = (made.root / "usr/lib/postgresql").glob("*/bin")
        user = next(
            line.split(":")[2:4]
            for line in (made.root / "etc/passwd").read_text().splitlines()
            if line.startswith("postgres:")
        )
        environment = {
            "PATH": f"/{programs.relative_to(made.root)}:/usr/bin:/bin",
            "PGDATA": "/var/lib/postgresql/data/of-the-test",
            "PGHOST": "/tmp",
        }
        return Image(made.root, environment, ":".join(user), "/", ["sh", "-c", _POSTGRES], [], [])

    def _describe(self, container: str) -> Image:
        root = Path(self.run("mount", container))
        config: dict[str, Any] = json.loads(self.run("inspect", container))["Docker"]["config"]
        return Image(
            root,
            dict(variable.split("=", 1) for variable in config["Env"] or ()),
            config["User"],
            config["WorkingDir"] or "/",
            config["Cmd"] or [],
            config.get("Healthcheck", {}).get("Test", []),
            list(config["Volumes"] or ()),
        )


def find_obstacle() -> str:
    """Return why no image can be built and run here, or ""."""
    if os.geteuid() != 0:
        return "only root builds an image here"
    wanted = {
        "buildah": "buildah",
        "debootstrap": "debootstrap",
        "runc": "runc",
        "tini-static": "tini",
        "ip": "iproute2",
    }
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    return f"not installed: {' '.join(missing)} (apt-get install)" if missing else ""


@contextmanager
def make_builder(storage: Path) -> Iterator[Builder]:
    """Give a builder whose storage is gone at the end."""
    storage.mkdir(parents=True)
    builder = Builder(storage, "overlay")
    try:
        builder.run("info")
    except AssertionError:  # on a file system that overlays cannot lie on
        builder = Builder(storage, "vfs")
    try:
        yield builder
    finally:
        with suppress(AssertionError):
            builder.run("umount", "--all")
            builder.run("rm", "--all")
            builder.run("rmi", "--all", "--force")
        subprocess.run(["umount", str(storage / "images" / "overlay")], check=False, capture_output=True)
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(storage) in line]
        assert not mounts, mounts  # else what is mounted there would be deleted with it
        shutil.rmtree(storage)


def list_foreign_libraries(image: Image) -> list[str]:
    """Return the shared libraries that the image's Python packages want and that a container would not find.

    The stand-in of the base has all that Debian's Python wants, the official base has not. So a library also counts as
    missing where only a package of Debian's Python brought it, unless the Dockerfile installs that package.
    """
    script = (
        "find /opt/seamline -name '*.so*' -type f -exec ldd {} + 2>/dev/null"
        " | awk '/not found/ {print $1} / => \\/(usr\\/)?lib/ {print $3}' | sort -u"
    )
    there = subprocess.run(["chroot", str(image.root), "sh", "-c", script], capture_output=True, text=True, check=True)
    brought = {path.name for path in (image.root / "opt/seamline").rglob("*.so*")}
    wanted = {library for library in there.stdout.split() if library not in brought | _OPTIONAL}
    allowed = {name for names in _INSTALLED_BY_DOCKERFILE.findall(_DOCKERFILE.read_text()) for name in names.split()}
    owners = {library: _find_owner(image.root, library) for library in sorted(wanted)}
    base = image.root / _BASE_PACKAGES
    allowed |= set(base.read_text().split()) if base.exists() else set(owners.values()) - {""}
    return [f"{library} ({owner or 'nowhere'})" for library, owner in owners.items() if owner not in allowed]


_OPTIONAL = {"libOpenCL.so.1"}
"""OpenVINO's plugin for GPUs of Intel wants it."""
_INSTALLED_BY_DOCKERFILE = re.compile(r"apt-get install (?:--\S+ )*([a-z0-9 .+-]+?) &&")
_BASE_PACKAGES = "usr/share/packages-of-the-base"
"""File in the base that lists its packages before Python was installed."""


def _find_owner(root: Path, library: str) -> str:
    for path in (library, f"/usr{library}", library.removeprefix("/usr")):
        found = subprocess.run(
            ["chroot", str(root), "dpkg-query", "--search", path], capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    return ""


def _make_base(root: Path, suite: str) -> None:
    """Fill a folder with what stands in for the official image of Python."""
    try:
        _run(["debootstrap", "--variant=minbase", f"--include={_IN_THE_OFFICIAL_BASE}", suite, str(root)])
    finally:  # where it fails, it leaves what it mounted
        subprocess.run(["umount", str(root / "proc"), str(root / "sys")], check=False, capture_output=True)
    listed = _run(["chroot", str(root), "dpkg-query", "--show", "--showformat", "${Package}\n"])
    (root / _BASE_PACKAGES).write_text(listed)
    _run(["chroot", str(root), "apt-get", "install", "--yes", "--no-install-recommends", "python3.11-venv"])
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    _run(["chroot", str(root), "apt-get", "clean"])


def _run(command: list[str]) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


def _share_pip(folder: Path) -> list[str]:
    """Return the volumes that let pip of a build find what pip finds on this machine."""
    listed = _run([sys.executable, "-m", "pip", "config", "list"])
    settings = dict(re.findall(r"^[^.]+\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    paths = {word.removeprefix("file://") for value in settings.values() for word in value.split()}
    shared = sorted(path for path in paths if path.startswith("/") and Path(path).exists())
    # The index of a folder leads to files beside it.
    shared = [str(Path(path).parent) if Path(path).name == "simple" else path for path in shared]
    return [f"{folder / 'pip.conf'}:/etc/pip.conf", *(f"{path}:{path}" for path in shared)]
