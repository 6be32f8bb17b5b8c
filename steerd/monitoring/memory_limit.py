"""How much memory this process may take."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def memory_limit(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int | None:
    """The smaller of the control group's limit and the machine's memory, in bytes, if either tells."""
    files = cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"  # of version 2, of version 1
    found = [*map(_cgroup_limit, files), _total(meminfo)]
    return min((limit for limit in found if limit is not None), default=None)


def _cgroup_limit(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _total(meminfo: Path) -> int | None:
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    kibibytes = [line.split()[1] for line in lines if line.startswith("MemTotal:")]
    return 1024 * int(kibibytes[0]) if kibibytes else None
