"""Free memory: what the kernel says, and what a control group leaves."""

from pathlib import Path

import pytest

from objectives.memory import free_memory, group_headroom


def test_free_memory_is_no_more_than_there_is():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < free_memory() <= total


@pytest.mark.parametrize(
    ("names", "cache"),
    [
        (("memory.max", "memory.current"), "inactive_file"),
        (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_a_group_leaves_its_limit_less_what_cannot_be_dropped(tmp_path, names, cache):
    for name, value in zip(names, (1000, 700), strict=True):
        (tmp_path / name).write_text(f"{value}\n")
    (tmp_path / "memory.stat").write_text(f"anon 500\n{cache} 150\n")
    assert group_headroom(tmp_path) == 450


def test_no_limit_and_no_group_leave_everything(tmp_path):
    assert group_headroom(tmp_path / "absent") > 1 << 60
    for name, value in (("memory.max", "max"), ("memory.current", "700"), ("memory.stat", "inactive_file 1")):
        (tmp_path / name).write_text(value)
    assert group_headroom(tmp_path) > 1 << 60
