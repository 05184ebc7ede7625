"""Run the services of a Compose file without Docker: Compose reads it, runc runs containers, bridges are networks.

What the file says of a service holds for its container: command, environment, user, read-only root, capabilities,
tmpfs, volumes, secrets, networks and their names, limit of memory, health check, what it waits for, restarts.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.deployment_files import run_compose
from tests.support.image_builder import Image
from tests.support.processes import wait_until

Answer = TypeVar("Answer")

_NETWORK = 0x40000000
"""CLONE_NEWNET of setns(2)."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 60.0
"""Seconds between the end of a container and its restart; Docker doubles them each time, but after a longer run."""
_LONGER_RUN = 10.0
"""Seconds."""
_DEVICES = ["nosuid", "noexec", "nodev"]
_TMPFS = [*_DEVICES, "mode=1777"]
"""How Docker mounts a service's tmpfs."""


@dataclass
class Container:
    """A replica of a service, which is started again as the service's ``restart`` says.

    Attributes:
        name: Its own name, such as ``worker-2``.
        service: What Compose made of the file for the service.
        namespace: Network namespace.
        folder: Where its bundle and its log are.
        starts: How often it was started.
        exits: Exit codes of those starts that ended.
    """

    name: str
    service: dict[str, Any]
    namespace: str
    folder: Path
    starts: int = 0
    exits: list[int] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    keeper: threading.Thread | None = None

    @property
    def id(self) -> str:
        """Its name for runc, which no other container of this machine has."""
        return self.namespace

    def start(self) -> None:
        """Start it, and from now on again and again."""
        self.stopping.clear()
        self.keeper = threading.Thread(target=self._keep, name=self.name)
        self.keeper.start()

    def stop(self, number: str = "TERM", seconds: float = 60) -> None:
        """Send a signal, wait for the end and leave it ended."""
        self.stopping.set()
        if self.keeper is None:
            return
        self.kill(number)
        self.keeper.join(seconds)
        if self.keeper.is_alive():
            self.kill("KILL")
            self.keeper.join()

    def kill(self, number: str = "KILL") -> None:
        """Send a signal to its first process."""
        self.runc("kill", self.id, number)

    def execute(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user."""
        options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return self.runc("exec", *options, self.id, *command)

    def is_healthy(self) -> bool:
        """Ask its health check, once."""
        kind, *command = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        return self.execute(*command).returncode == 0

    def read_log(self) -> str:
        """Return what all its starts said."""
        return (self.folder / "log").read_text(errors="replace")

    def runc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run runc and return what it says; it fails only where the caller looks."""
        command = ["runc", "--root", str(self.folder / "runc"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def _keep(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self.stopping.is_set():
            self.starts += 1
            began = time.monotonic()
            command = ["runc", "--root", str(self.folder / "runc"), "run", "--bundle", str(self.folder), self.id]
            with (self.folder / "log").open("ab") as log:
                code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode
            self.exits.append(code)
            if self.service["restart"] == "on-failure" and code == 0:
                break
            pause = _SHORTEST_PAUSE if time.monotonic() - began > _LONGER_RUN else min(2 * pause, _LONGEST_PAUSE)
            self.stopping.wait(pause)


@dataclass
class Stack:
    """All services of a Compose file.

    Attributes:
        file: What Compose made of the file.
        images: Image of each name that services give.
        folder: Where containers and anonymous volumes lie.
        prefix: Begins the names of network namespaces.
        containers: Replicas of each service.
    """

    file: dict[str, Any]
    images: Mapping[str, Image]
    folder: Path
    prefix: str
    containers: dict[str, list[Container]] = field(default_factory=dict)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)

    def start(self, service: str) -> None:
        """Start a service after those that it waits for."""
        if service in self.containers:
            return
        for name, condition in self.file["services"][service].get("depends_on", {}).items():
            self.start(name)
            self._wait_for(name, condition["condition"])
        self.containers[service] = [*self._make_containers(service)]
        for container in self.containers[service]:
            container.start()

    def wait_until_healthy(self, service: str) -> None:
        """Return when all replicas of a service say that they are healthy."""
        for container in self.containers[service]:
            wait_until(container.is_healthy, f"health of {container.name}", pause=1)

    def stop(self) -> None:
        """Stop all containers, those first that started last."""
        for containers in reversed(self.containers.values()):
            for container in containers:
                container.stop()
                container.runc("delete", "--force", container.id)

    def list_replicas(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield service, name and networks of each container."""
        for name, service in self.file["services"].items():
            for number in range(1, _count_replicas(service) + 1):
                yield name, f"{name}-{number}", [*service["networks"]]

    def _wait_for(self, service: str, condition: str) -> None:
        (container,) = self.containers[service]
        if condition == "service_healthy":
            self.wait_until_healthy(service)
        else:
            assert condition == "service_completed_successfully"
            wait_until(lambda: 0 in container.exits, f"success of {service}", pause=0.5)

    def _make_containers(self, service: str) -> Iterator[Container]:
        for owner, name, _ in self.list_replicas():
            if owner == service:
                folder = self.folder / name
                folder.mkdir()
                spec = self.file["services"][service]
                image = self.images[spec["image"]]
                spec = {"healthcheck": {"test": image.healthcheck}, **spec}
                container = Container(name, spec, self.prefix + name, folder)
                (folder / "config.json").write_text(json.dumps(self._describe(container, image), indent=1))
                yield container

    def _describe(self, container: Container, image: Image) -> dict[str, Any]:
        """Return the container as runc wants it."""
        service = container.service
        user, group = map(int, service.get("user", image.user).split(":"))
        command = [word.replace("$$", "$") for word in service.get("command") or image.command]
        variables = {**image.environment, **service.get("environment", {})}
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        memory = {"memory": {"limit": int(limits["memory"])}} if "memory" in limits else {}
        namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        namespaces.append({"type": "network", "path": f"/run/netns/{container.namespace}"})
        return {
            "ociVersion": "1.0.2",
            "hostname": container.name,
            "root": {"path": str(image.root), "readonly": service.get("read_only", False)},
            "process": {
                "user": {"uid": user, "gid": group},
                "args": (["/sbin/docker-init", "--"] if service.get("init") else []) + command,
                "env": [
                    f"HOME={_find_home(image.root, user)}",
                    *(f"{name}={text}" for name, text in variables.items()),
                ],
                "cwd": image.folder,
                "capabilities": {},
                "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", []),
            },
            "mounts": [*_SYSTEM, *self._list_mounts(container, image, user, group)],
            "linux": {"namespaces": namespaces, "resources": memory},
        }

    def _list_mounts(self, container: Container, image: Image, user: int, group: int) -> Iterator[dict[str, Any]]:
        service = container.service
        (container.folder / "hosts").write_text(self._list_hosts(container))
        yield _bind(container.folder / "hosts", "/etc/hosts", True)
        if service.get("init"):
            yield _bind(Path(shutil.which("tini-static") or ""), "/sbin/docker-init", True)
        for place in service.get("tmpfs", []):
            yield {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": _TMPFS}
        for secret in service.get("secrets", []):
            source = Path(self.file["secrets"][secret["source"]]["file"])
            yield _bind(source, f"/run/secrets/{secret['source']}", True)
        given = {volume["target"]: volume for volume in service.get("volumes", [])}
        for target, volume in given.items():
            source = Path(volume["source"])
            if volume["type"] == "volume":
                source = self._make_volume(volume["source"], user, group)
            yield _bind(source, target, volume.get("read_only", False))
        for target in {*image.volumes} - {*given}:
            yield _bind(self._make_volume(f"{container.name}-anonymous", user, group), target, False)

    def _make_volume(self, name: str, user: int, group: int) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, user, group)
        return folder

    def _list_hosts(self, container: Container) -> str:
        """Return the lines of /etc/hosts: names of services that share a network, by the addresses there."""
        own = container.service["networks"]
        lines = ["127.0.0.1 localhost", f"{self.addresses[container.name, next(iter(own))]} {container.name}"]
        for service, name, networks in self.list_replicas():
            for network in networks:
                aliases = (self.file["services"][service]["networks"][network] or {}).get("aliases", [])
                if network in own:
                    lines.append(" ".join([self.addresses[name, network], service, *aliases]))
        return "\n".join([*lines, ""])


@contextmanager
def run_stack(file: Path, images: Mapping[str, Image], folder: Path) -> Iterator[Stack]:
    """Give the stack of a Compose file; services of the profile ``gpu`` are left out. All of it is gone at the end.

    Args:
        file: The Compose file, beside its secrets.
        images: Image of each name that services give.
        folder: Where containers and volumes are put.
    """
    answer = run_compose(file, SEAMLINE_DATA="./data", SEAMLINE_UID="1000", SEAMLINE_GID="1000")
    assert answer.returncode == 0, answer.stderr
    described = yaml.safe_load(answer.stdout)
    services = {name: one for name, one in described["services"].items() if one.get("profiles") != ["gpu"]}
    stack = Stack({**described, "services": services}, images, folder, f"seamline-{os.getpid()}-")
    with _make_networks(stack):
        try:
            yield stack
        finally:
            stack.stop()


def ask_inside(container: Container, question: Callable[[], Answer]) -> Answer:
    """Call a function while this thread is in the network of a container."""

    def ask() -> Answer:
        with Path(f"/run/netns/{container.namespace}").open() as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NETWORK) == 0
        return question()

    with ThreadPoolExecutor(1) as thread:  # which goes away with its network
        return thread.submit(ask).result()


@contextmanager
def _make_networks(stack: Stack) -> Iterator[None]:
    """Make a bridge for each network, all in a namespace of their own, and a namespace for each container."""
    made: list[str] = []
    switch = f"{stack.prefix}switch"

    def add(namespace: str) -> None:
        _ip("netns", "add", namespace)
        made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    try:
        add(switch)
        networks = {name: number for number, name in enumerate(stack.file["networks"], 1)}
        for network, number in networks.items():
            _ip("-n", switch, "link", "add", network, "up", "type", "bridge")
            _ip("-n", switch, "address", "add", f"10.77.{number}.1/24", "dev", network)
        for host, (_, name, joined) in enumerate(stack.list_replicas(), 2):
            add(stack.prefix + name)
            for network in joined:
                stack.addresses[name, network] = f"10.77.{networks[network]}.{host}"
                _join(
                    switch, stack.prefix + name, network, f"c{host}n{networks[network]}", stack.addresses[name, network]
                )
            ways_out = [network for network in joined if not stack.file["networks"][network].get("internal")]
            if ways_out:
                way = f"10.77.{networks[ways_out[0]]}.1"
                _ip("-n", stack.prefix + name, "route", "add", "default", "via", way)
        yield
    finally:
        for name in made:
            _ip("netns", "delete", name)


def _join(switch: str, namespace: str, network: str, cable: str, address: str) -> None:
    _ip("-n", switch, "link", "add", cable, "type", "veth", "peer", "name", network, "netns", namespace)
    _ip("-n", switch, "link", "set", cable, "master", network, "up")
    _ip("-n", namespace, "address", "add", f"{address}/24", "dev", network)
    _ip("-n", namespace, "link", "set", network, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _count_replicas(service: dict[str, Any]) -> int:
    return int(service.get("deploy", {}).get("replicas", 1))


def _find_home(root: Path, user: int) -> str:
    """Return the home that Docker gives a user."""
    lines = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    return next((line[5] for line in lines if line[2] == str(user)), "/")


def _bind(source: Path, target: str, read_only: bool) -> dict[str, Any]:
    assert source.exists(), source
    options = ["rbind", "ro" if read_only else "rw"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


_SYSTEM: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*_TMPFS, "size=64m"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_DEVICES, "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_DEVICES, "ro"]},
]
"""What every container of Docker has."""
