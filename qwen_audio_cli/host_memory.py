"""How much memory this machine can still give a process, and its control group lets it have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# By version of control groups: the files of the limit, of what is used, and of what of that can be
# taken back at once (cached files that nobody reads).
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(root: Path = Path("/")) -> int:
    """Bytes that a new process could have without swapping. `root` is where the system is seen."""
    return min([_available(root), *_rooms(root)])


def _available(root: Path) -> int:
    """What the whole machine has."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rooms(root: Path) -> Iterator[int]:
    """What each control group around this process has left."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        group = mount / path.lstrip("/")
        # In a container the path may be the host's; its own group is then the mount itself.
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount) and (room := _room(directory, files)) is not None:
                yield room


def _room(directory: Path, files: tuple[str, str, str]) -> int | None:
    """What a control group has left, None where it sets no limit."""
    limit, used, idle = files
    try:
        most = int((directory / limit).read_text())
        rest = most - int((directory / used).read_text())
        stat = (directory / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # "max" is no number
        return None
    cached = sum(int(line.split()[1]) for line in stat if line.split()[0] == idle)
    return max(0, rest + cached)
