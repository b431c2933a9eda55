"""Free memory: how much this process may still take, in a container too."""

import os
from pathlib import Path

# Where control groups v2 and v1 say limit and use, and their name in memory.stat of page cache that can be dropped.
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory() -> int:
    """Bytes that this process may still take.

    On Linux what the kernel calls available, or what the process's control group leaves if that is less. Elsewhere all
    memory that is built in.

    >>> free_memory() > 0
    True
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(0, min([available, *map(group_headroom, _own_groups())]))


def group_headroom(folder: Path) -> int:
    """Bytes that a control group leaves to its members; a very large number where it sets no limit.

    Args:
        folder: The group's folder, of either version; one that does not exist sets no limit.
    """
    for limit_file, used_file, cache_key in _GROUPS:
        try:
            limit = (folder / limit_file).read_text().strip()
            used = int((folder / used_file).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:  # not this version of control groups, or the group shows no such file
            continue
        if limit != "max":
            return int(limit) - used + int(stat.get(cache_key, 0))
    return 1 << 63


def _own_groups() -> list[Path]:
    """Folders of this process's memory control group and its ancestors."""
    folders: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            mount = Path("/sys/fs/cgroup", controllers)
            # In a container the mount shows the own group as its root, while the path is the host's.
            group = mount / path.lstrip("/")
            folders += [mount, *(p for p in (group, *group.parents) if p.is_relative_to(mount) and p != mount)]
    return folders
