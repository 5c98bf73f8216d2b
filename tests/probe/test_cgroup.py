from pathlib import Path

import pytest

from local_worker.probe.cgroup import (
    CgroupLimits,
    cores_of_quota,
    parse_cpu_max,
    parse_group_paths,
    parse_reclaimable,
    read_limits,
)

V1_PATHS = """\
12:cpu,cpuacct:/docker/4f1c
11:memory:/docker/4f1c
4:name=systemd:/docker/4f1c
0::/system.slice/containerd.service
"""

V2_STAT = """\
anon 2147483648
file 1610612736
kernel 10485760
shmem 268435456
inactive_anon 2415919104
active_anon 0
inactive_file 1073741824
active_file 268435456
"""

V1_STAT = """\
cache 4096
rss 8192
inactive_file 0
active_file 4096
total_cache 3221225472
total_inactive_file 2147483648
total_active_file 1073741824
"""

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_group_paths_split_joined_controllers() -> None:
    assert parse_group_paths(V1_PATHS) == {
        "cpu": "/docker/4f1c",
        "cpuacct": "/docker/4f1c",
        "memory": "/docker/4f1c",
        "name=systemd": "/docker/4f1c",
        "": "/system.slice/containerd.service",
    }


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("150000 100000\n", 1.5),
        ("400000 100000\n", 4.0),
        ("50000", 0.5),
        ("max 100000\n", None),
        ("", None),
    ],
)
def test_cpu_max(text: str, cores: float | None) -> None:
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [(-1, 100000, None), (250000, 100000, 2.5), (None, 100000, None), (100000, None, None)],
)
def test_quota(quota: int | None, period: int | None, cores: float | None) -> None:
    assert cores_of_quota(quota, period) == cores


def test_reclaimable_is_the_file_cache_of_the_subtree() -> None:
    assert parse_reclaimable(V2_STAT) == 1073741824 + 268435456
    assert parse_reclaimable(V1_STAT) == 3 * GIB
    assert parse_reclaimable("") == 0


def test_no_cgroup_files_mean_no_limit(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == CgroupLimits()


def test_version_2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/worker\n",
            "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/kubepods/memory.max": "max\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/kubepods/pod1/memory.current": f"{4 * GIB}\n",
            "sys/fs/cgroup/kubepods/pod1/memory.stat": V2_STAT,
            "sys/fs/cgroup/kubepods/pod1/worker/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kubepods/pod1/worker/memory.max": f"{6 * GIB}\n",
            "sys/fs/cgroup/kubepods/pod1/worker/memory.current": f"{1 * GIB}\n",
        },
    )
    # The pod has 8 - (4 - 1.25 of page cache) = 5.25 GiB left, its worker 6 - 1 = 5.
    assert read_limits(root) == CgroupLimits(1.5, 6 * GIB, 5 * GIB)


def test_version_2_inside_its_own_namespace(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory.high": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory.stat": V2_STAT,
        },
    )
    assert read_limits(root) == CgroupLimits(2.0, 4 * GIB, int(2.25 * GIB))


def test_version_1_reads_the_mount_root_when_the_path_is_the_hosts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": V1_PATHS,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{10 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": V1_STAT,
        },
    )
    assert read_limits(root) == CgroupLimits(2.5, 10 * GIB, 8 * GIB)


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/app\n1:cpu:/\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/app/memory.usage_in_bytes": "4132864\n",
        },
    )
    assert read_limits(root) == CgroupLimits()


def test_a_group_outside_of_the_namespace_reads_the_root(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../host.slice\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        },
    )
    assert read_limits(root) == CgroupLimits(None, 2 * GIB, 0)
