"""Memory limits of control groups and names of processors, in files like those that Linux shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.pipeline.cluster import machine


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own_groups", "files", "limits"),
    [
        ("0::/user.slice/job.scope\n", {"user.slice/job.scope/memory.max": "700000000\n"}, [700_000_000]),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "9000\n", "memory.max": "8000\n"}, [9000, 8000]),
        (
            "12:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n1:name=systemd:/y\n0::/\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": "5000", "memory/memory.limit_in_bytes": "9223372036854771712"},
            [5000, 9223372036854771712],
        ),
        ("4:memory:/../elsewhere\n", {}, []),  # what a container without a namespace of groups sees
        ("0::/a:b\n", {"a:b/memory.max": "1\n"}, [1]),
    ],
)
def test_the_limits_of_a_group_and_of_those_above_it_count(
    tmp_path: Path, own_groups: str, files: dict[str, str], limits: list[int]
) -> None:
    write(tmp_path / "self" / "cgroup", own_groups)
    for name, text in files.items():
        write(tmp_path / "fs" / name, text)
    assert list(machine._read_group_limits(tmp_path / "self" / "cgroup", tmp_path / "fs")) == limits


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "self", "0::/job\n")
    write(tmp_path / "fs" / "job" / "memory.max", "700000000")
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "self")
    assert machine.get_memory_limit() == 700_000_000
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "no such file")
    assert machine.get_memory_limit() == machine.MEMORY_LIMIT


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("processor\t: 0\nmodel name\t: Fast: 9000 @ 2 GHz\n", "Fast: 9000 @ 2 GHz"),
        ("model name :\n", "arch"),
        ("", "arch"),
    ],
)
def test_processors_have_the_name_that_the_kernel_tells(
    told: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "arch")
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "cpuinfo")
    assert machine.read_processor_name() == "arch"
    write(tmp_path / "cpuinfo", told)
    assert machine.read_processor_name() == name
