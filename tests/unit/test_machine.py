"""What the cgroup's files say of the memory and the processors that are left."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from penstock import machine
from penstock.machine import available_memory, cpus

MB = 1 << 20


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    return tmp_path


@pytest.fixture
def own_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own"
    monkeypatch.setattr(machine, "OWN_GROUPS", file)
    return file


def v2(folder: Path, limit: str, usage: int, stat: str = "") -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(stat)


def v1(folder: Path, limit: int, usage: int, stat: str = "") -> None:
    (folder / "memory").mkdir()
    (folder / "memory" / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory" / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory" / "memory.stat").write_text(stat)


def is_what_the_machine_has(count: int) -> bool:
    return abs(count - psutil.virtual_memory().available) < 0.2 * psutil.virtual_memory().total


def test_version_2_leaves_the_limit_less_the_usage(cgroup: Path) -> None:
    v2(cgroup, str(10 * MB), 4 * MB)
    assert available_memory() == 6 * MB


def test_version_1_leaves_the_limit_less_the_usage(cgroup: Path) -> None:
    v1(cgroup, 10 * MB, 4 * MB)
    assert available_memory() == 6 * MB


def test_version_2_counts_cache_that_can_be_dropped_as_left(cgroup: Path) -> None:
    v2(cgroup, str(10 * MB), 9 * MB, f"anon {MB}\nfile 77\ninactive_file {2 * MB}\nactive_file 5\n")
    assert available_memory() == 3 * MB


def test_version_1_counts_the_cache_of_the_whole_hierarchy(cgroup: Path) -> None:
    v1(cgroup, 10 * MB, 9 * MB, f"inactive_file 5\ntotal_inactive_file {2 * MB}\n")
    assert available_memory() == 3 * MB


def test_a_group_over_its_limit_leaves_nothing(cgroup: Path) -> None:
    v2(cgroup, str(4 * MB), 5 * MB)
    assert available_memory() == 0


def test_no_limit_in_version_2_leaves_what_the_machine_has(cgroup: Path) -> None:
    v2(cgroup, "max", 4 * MB)
    assert is_what_the_machine_has(available_memory())


def test_no_limit_in_version_1_leaves_what_the_machine_has(cgroup: Path) -> None:
    v1(cgroup, 9223372036854771712, 4 * MB)
    assert is_what_the_machine_has(available_memory())


@pytest.mark.usefixtures("cgroup")
def test_no_files_leave_what_the_machine_has() -> None:
    assert is_what_the_machine_has(available_memory())


def test_a_missing_account_of_the_cache_counts_as_none(cgroup: Path) -> None:
    v2(cgroup, str(10 * MB), 4 * MB)
    (cgroup / "memory.stat").unlink()
    assert available_memory() == 6 * MB


def test_a_limit_above_the_machine_is_no_promise(cgroup: Path) -> None:
    v2(cgroup, str(1 << 50), 0)
    assert is_what_the_machine_has(available_memory())


@pytest.mark.parametrize("inner", [3, 9])
def test_the_tightest_limit_of_the_own_group_and_those_above_counts(
    inner: int, cgroup: Path, own_groups: Path
) -> None:
    own_groups.write_text("3:cpu:/other\n0::/slurm/job7\n")
    job = cgroup / "slurm" / "job7"
    job.mkdir(parents=True)
    v2(job, str(inner * MB), MB)
    v2(cgroup / "slurm", str(7 * MB), MB)
    assert available_memory() == min(inner - 1, 6) * MB


@pytest.mark.parametrize("path", ["/not/mounted/here", "/../..", "/"])
def test_a_path_of_another_namespace_leaves_the_mounts_own_limit(
    path: str, cgroup: Path, own_groups: Path
) -> None:
    own_groups.write_text(f"0::{path}\n")
    v2(cgroup, str(10 * MB), 4 * MB)
    assert available_memory() == 6 * MB


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.usefixtures("cgroup")
def test_without_a_quota_the_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    assert cpus() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("1000 100000", 1),
        ("1600000 100000", 8),
        ("max 100000", 8),
    ],
)
def test_a_quota_of_version_2(quota: str, count: int, cgroup: Path) -> None:
    (cgroup / "cpu.max").write_text(f"{quota}\n")
    assert cpus() == count


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "count"), [(200000, 2), (250000, 3), (-1, 8)])
def test_a_quota_of_version_1(quota: int, count: int, cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus() == count


@pytest.mark.usefixtures("eight_cpus")
def test_the_tightest_quota_of_the_groups_above_counts(cgroup: Path, own_groups: Path) -> None:
    own_groups.write_text("0::/slurm/job7\n")
    (cgroup / "slurm" / "job7").mkdir(parents=True)
    (cgroup / "slurm" / "job7" / "cpu.max").write_text("500000 100000\n")
    (cgroup / "slurm" / "cpu.max").write_text("300000 100000\n")
    assert cpus() == 3
