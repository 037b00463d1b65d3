"""Main memory as Linux tells it, a container's limit included."""

from pathlib import Path

import pytest

from shared.machine import Memory, memory

KIB = 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n"
    )
    return tmp_path


def group(root: Path, limit: str, used: int, files: int) -> None:
    folder = root / "sys/fs/cgroup"
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile {files}\n")


def test_a_machine_without_limits(root: Path) -> None:
    assert memory(root) == Memory(600 * KIB, 1000 * KIB)
    group(root, "max", 5, 0)
    assert memory(root) == Memory(600 * KIB, 1000 * KIB)
    group(root, str(2**60), 5, 0)
    assert memory(root) == Memory(600 * KIB, 1000 * KIB)


def test_a_containers_limit_counts_and_its_cached_files_give_way(root: Path) -> None:
    group(root, str(400 * KIB), 300 * KIB, 100 * KIB)
    assert memory(root) == Memory(200 * KIB, 400 * KIB)
    group(root, str(900 * KIB), 100 * KIB, 0)
    assert memory(root) == Memory(600 * KIB, 900 * KIB), "the machine has no more"


def test_the_older_hierarchy_is_read_too(root: Path) -> None:
    folder = root / "sys/fs/cgroup/memory"
    (folder / "memory.limit_in_bytes").write_text(str(400 * KIB))
    (folder / "memory.usage_in_bytes").write_text(str(300 * KIB))
    (folder / "memory.stat").write_text(f"cache 0\ntotal_cache {50 * KIB}\n")
    assert memory(root) == Memory(150 * KIB, 400 * KIB)


def test_elsewhere_nothing_is_said(tmp_path: Path) -> None:
    assert memory(tmp_path) is None
