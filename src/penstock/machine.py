"""What the machine leaves for us: memory, by the cgroup's account where there is one."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
_V1_UNLIMITED = 1 << 60


def available_memory() -> int:
    """Bytes that can still be taken without swapping or meeting the cgroup's limit."""
    free = int(psutil.virtual_memory().available)
    left = _cgroup_memory_left()
    return free if left is None else min(free, left)


def _cgroup_memory_left() -> int | None:
    """Bytes left under this process's memory cgroup (version 2 or 1), or None without a limit."""
    for folder, limit_name, usage_name, cache_key in (
        (CGROUP, "memory.max", "memory.current", "inactive_file"),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, usage = _number(folder / limit_name), _number(folder / usage_name)
        if limit is not None and usage is not None and limit < _V1_UNLIMITED:
            return max(0, limit - usage + _reclaimable(folder / "memory.stat", cache_key))
    return None


def _reclaimable(path: Path, key: str) -> int:
    """Bytes of page cache that the kernel drops before it calls memory short."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)


def _number(path: Path) -> int | None:
    """The number in a file, or None where there is no file or no number ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
