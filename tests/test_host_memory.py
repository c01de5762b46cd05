"""What is free on this machine, by the kernel's figures and those of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_audio_cli import host_memory


def test_free_memory_of_this_machine_is_what_it_says() -> None:
    """The kernel's own figure, unless a control group allows less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    facts = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    assert 0 < host_memory.free_bytes() <= facts["MemTotal"]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


GROUPS_1 = "9:pids:/\n4:cpu,memory:/box/a:1\n0::/\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8 << 20),
        # Version 2: the nearest group has no limit, the one around it has.
        ({"proc/self/cgroup": "0::/outer/inner\n",
          "sys/fs/cgroup/outer/inner/memory.max": "max\n",
          "sys/fs/cgroup/outer/inner/memory.current": "5\n",
          "sys/fs/cgroup/outer/memory.max": "1000\n",
          "sys/fs/cgroup/outer/memory.current": "900\n",
          "sys/fs/cgroup/outer/memory.stat": "anon 500\ninactive_file 50\n"}, 150),
        # A container that sees its own group as the whole, by the host's path.
        ({"proc/self/cgroup": "0::/docker/1234\n",
          "sys/fs/cgroup/memory.max": "1000\n",
          "sys/fs/cgroup/memory.current": "1100\n",
          "sys/fs/cgroup/memory.stat": "inactive_file 0\n"}, 0),
        # Version 1, where no limit is a very large one.
        ({"proc/self/cgroup": GROUPS_1,
          "sys/fs/cgroup/memory/box/a:1/memory.limit_in_bytes": "9223372036854771712\n",
          "sys/fs/cgroup/memory/box/a:1/memory.usage_in_bytes": "7\n",
          "sys/fs/cgroup/memory/box/a:1/memory.stat": "total_inactive_file 2\n",
          "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000\n",
          "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "400\n",
          "sys/fs/cgroup/memory/box/memory.stat": "inactive_file 9\ntotal_inactive_file 2\n"}, 602),
    ],
)  # fmt: skip
def test_free_memory_in_control_groups(tmp_path: Path, files: dict[str, str], free: int) -> None:
    about = {"proc/meminfo": "MemTotal: 16384 kB\nMemFree: 1 kB\nMemAvailable:   8192 kB\n"}
    assert host_memory.free_bytes(write(tmp_path, about | files)) == free
