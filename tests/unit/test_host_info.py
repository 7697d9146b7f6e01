# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""host_info: the real main() against a machine whose files and programs are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.muster.platform.plugins.modules import host_info

FILES = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\nPRETTY_NAME="Debian 13"\n',
    "/proc/meminfo": "MemTotal:        2097152 kB\nMemFree: 5 kB\n",
    "/proc/self/status": "Name:\tpython3\nCapEff:\t00000000a82c35fb\n",
    "/proc/sys/vm/swappiness": "60\n",
    "/proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
}
UNIT = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n"
STOPPED = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\n"
ABSENT = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n"
ADDRESSES = [
    {"addr_info": [{"family": "inet6", "local": "2001:db8::5"}, {"family": "inet", "local": "192.0.2.5"}]},
    {"addr_info": [{}]},
]


class Machine:
    """A host of which every answer may be replaced."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.systemd = True
        self.time_units = [ABSENT] * len(host_info.TIME_DAEMONS)
        self.answers: dict[str, str] = {
            "dpkg-query": "haproxy\tinstalled\t3.0.11-1\nchrony\tconfig-files\t4.6-1\n",
            "ip": json.dumps(ADDRESSES),
            "chronyc": "",
        }
        self.commands: list[list[str]] = []

    def run(self, _module: Any, command: list[str], **_options: Any) -> tuple[int, str, str]:
        self.commands.append(command)
        if command[0] != "systemctl":
            return 0, self.answers[command[0]], ""
        if "--property=Version,SystemState,Virtualization" in command:
            return 0, "Version=257.8-1\nSystemState=running\nVirtualization=kvm\n", ""
        asked = command[command.index("--") + 1 :]
        states = dict(zip(host_info.TIME_DAEMONS, self.time_units, strict=True))
        return 0, "\n".join(states.get(name, UNIT) for name in asked), ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(host_info, "read", lambda path: made.files.get(path))
    monkeypatch.setattr(AnsibleModule, "run_command", lambda *given, **options: made.run(*given, **options))
    real_isdir = host_info.os.path.isdir
    monkeypatch.setattr(
        host_info.os.path,
        "isdir",
        lambda path: made.systemd if path == "/run/systemd/system" else real_isdir(path),
    )
    return made


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        host_info.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_reads_system_and_sizes(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys)
    assert result["changed"] is False
    assert result["os"] == {"id": "debian", "version_id": "13", "codename": "trixie"}
    assert result["memory_mb"] == 2048
    assert result["systemd"] == {"version": "257.8-1", "state": "running"}
    assert result["virtualization"] == "kvm"
    assert result["addresses"] == ["192.0.2.5", "2001:db8::5"]


def test_memory_is_the_control_groups_limit_when_that_is_less(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.files["/sys/fs/cgroup/memory.max"] = f"{512 * 1024 * 1024}\n"
    assert run(capsys)["memory_mb"] == 512
    machine.files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert run(capsys)["memory_mb"] == 2048


def test_packages_in_one_query_and_a_removed_one_is_missing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, packages=["haproxy", "chrony", "nowhere"])
    assert result["packages"] == {"haproxy": "3.0.11-1", "chrony": None, "nowhere": None}
    assert [command[0] for command in machine.commands].count("dpkg-query") == 1


def test_no_package_asked_runs_no_query(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)["packages"] == {}
    assert "dpkg-query" not in [command[0] for command in machine.commands]


def test_a_directory_that_does_not_exist_is_measured_at_its_parent(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted = str(tmp_path / "not" / "yet")
    (found,) = run(capsys, paths=[wanted])["disks"]
    assert found["path"] == wanted
    assert found["measured"] == str(tmp_path)
    assert 0 <= found["free_mb"] <= found["total_mb"]


def test_units_keep_their_names(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.time_units[0] = STOPPED
    result = run(capsys, units=["ssh.service", "chrony.service"])
    assert result["units"]["ssh.service"] == {
        "load": "loaded",
        "active": "active",
        "sub": "running",
        "enabled": "enabled",
    }
    assert result["units"]["chrony.service"]["active"] == "inactive"
    assert list(result["units"]) == ["ssh.service", "chrony.service"]


def test_without_systemd_all_of_it_is_null(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.systemd = False
    result = run(capsys, units=["ssh.service"])
    assert result["systemd"] == {"version": None, "state": None}
    assert result["units"] == {"ssh.service": dict.fromkeys(("load", "active", "sub", "enabled"))}
    assert result["time"]["daemon"] is None


def test_sysctls_of_several_words_and_unknown_ones(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, sysctls=["vm.swappiness", "net.ipv4.tcp_rmem", "vm.nonsense"])["sysctls"]
    assert found["vm.swappiness"]["value"] == "60"
    assert found["net.ipv4.tcp_rmem"]["value"] == "4096 131072 6291456"
    assert found["vm.nonsense"] == {"value": None, "writable": False}


def test_files_and_a_missing_one(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, files=["/etc/hosts", "/etc/none"])["files"]
    assert found == {"/etc/hosts": "127.0.0.1 localhost\n", "/etc/none": None}


def test_a_large_file_is_refused_by_name(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.files["/var/log/big"] = "x" * (host_info.MOST_FILE_BYTES + 1)
    result = run(capsys, files=["/var/log/big"])
    assert result["failed"] is True
    assert result["msg"] == "/var/log/big is larger than 64 KiB"


@pytest.mark.parametrize(
    ("capabilities", "adjustable"), [("00000000a82c35fb", False), ("000001ffffffffff", True)]
)
def test_the_clock_may_be_set_with_cap_sys_time(
    machine: Machine, capsys: pytest.CaptureFixture[str], capabilities: str, adjustable: bool
) -> None:
    machine.files["/proc/self/status"] = f"CapEff:\t{capabilities}\n"
    assert run(capsys)["time"]["adjustable"] is adjustable


@pytest.mark.parametrize(
    ("answer", "offset"),
    [
        ("C0A80001,192.168.0.1,3,1795254000.1,0.000031,0.1,0.2,1.0,0,0,0.01,0.001,64.2,Normal", 0.031),
        ("00000000,,0,0.000000,0.000000,0,0,0,0,0,1,1,0,Not synchronised", None),
        ("", None),
    ],
)
def test_chrony_tells_the_offset_once_it_has_a_source(
    machine: Machine, capsys: pytest.CaptureFixture[str], answer: str, offset: float | None
) -> None:
    machine.time_units[0] = UNIT
    machine.answers["chronyc"] = answer
    time = run(capsys)["time"]
    assert time["daemon"] == "chrony.service"
    assert time["offset_ms"] == offset


def test_asking_the_kernel_does_not_need_a_right() -> None:
    assert host_info.clock_synchronised() in (True, False)
