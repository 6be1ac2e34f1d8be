"""What the machine leaves for us, processors and memory, by the cgroup's account where there is one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_V1_UNLIMITED = 1 << 60


def cpus() -> int:
    """How many processors this process may keep busy: by its affinity, and by the quota of its cgroup and of
    those above it, where a part of a processor counts as one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_cpu_quotas()]))


def available_memory() -> int:
    """Bytes that can still be taken without swapping or meeting a cgroup's limit."""
    return min(int(psutil.virtual_memory().available), *_cgroup_memory_left())


def memory_kills() -> int | None:
    """How many processes of this cgroup the kernel has killed for lack of memory; None if it isn't told."""
    group = next(_groups(CGROUP, ""))
    counts = [_keyed(group / "memory.events", "oom_kill"), _keyed(group / "memory.oom_control", "oom_kill")]
    return next((count for count in counts if count is not None), None)


def _cpu_quotas() -> Iterator[int]:
    """How many processors each limit on this process's time amounts to."""
    for group in _groups(CGROUP, ""):
        quota, period = (*_words(group / "cpu.max"), "", "")[:2]
        if quota.isdigit() and period.isdigit():
            yield math.ceil(int(quota) / int(period))
    for group in _groups(CGROUP / "cpu", "cpu"):
        in_us, period_us = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if in_us is not None and in_us > 0 and period_us:
            yield math.ceil(in_us / period_us)


def _cgroup_memory_left() -> Iterator[int]:
    """Bytes left under each limit on this process's memory: of its cgroup and those above it."""
    for controller, mount, limit_name, usage_name, cache_key in (
        ("", CGROUP, "memory.max", "memory.current", "inactive_file"),
        (
            "memory",
            CGROUP / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        for group in _groups(mount, controller):
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if limit is not None and usage is not None and limit < _V1_UNLIMITED:
                yield max(0, limit - usage + _reclaimable(group / "memory.stat", cache_key))
    yield _V1_UNLIMITED


def _groups(mount: Path, controller: str) -> Iterator[Path]:
    """The folder of this process's group and those above it, up to `mount`.

    In a container the path in /proc may be that of the host, of which only `mount` is there.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    entries = (line.split(":", 2) for line in lines)
    own = next((path for _, names, path in entries if controller in names.split(",")), "/")
    parts = [] if ".." in own else own.strip("/").split("/")
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _reclaimable(path: Path, key: str) -> int:
    """Bytes of page cache that the kernel drops before it calls memory short."""
    return _keyed(path, key) or 0


def _keyed(path: Path, key: str) -> int | None:
    """The number behind a key, in a file of such lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file, or None where there is no file or no number ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
