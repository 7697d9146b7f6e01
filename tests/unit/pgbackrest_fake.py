"""A pgBackRest whose answers a test sets, and which remembers what it was asked."""

from __future__ import annotations

import getpass
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.muster.platform.plugins.module_utils import _pgbackrest, _restore

PROGRAM = """#!{python} -SE
import json, pathlib, sys
home = pathlib.Path({home!r})
words = sys.argv[1:]
command = next(w for w in words if not w.startswith("-"))
with (home / "calls").open("a") as stream:
    stream.write(json.dumps(words) + "\\n")
answers = json.loads((home / "answers.json").read_text())
found = answers.get(command, [dict(rc=0, out="")])
count = sum(json.loads(line)[0] == command for line in (home / "calls").read_text().splitlines())
answer = found[min(count, len(found)) - 1]
for path, text in answer.get("files", dict()).items():
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(text)
sys.stdout.write(answer["out"])
sys.exit(answer["rc"])
"""


class FakePgBackRest:
    """Answers by command, in the order they were set; the last one is repeated."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.monkeypatch = monkeypatch
        self.user = getpass.getuser()
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.program("pgbackrest", PROGRAM.format(python=sys.executable, home=str(home)))
        self.answer("version", "pgBackRest 2.55.1\n")
        for module in (_pgbackrest, _restore):
            monkeypatch.setattr(module, "PROGRAMS", f"{home}:/usr/bin:/bin")

    def program(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def uninstall(self) -> None:
        """Leave neither this pgbackrest nor one that the machine may have."""
        (self.home / "pgbackrest").unlink()
        for module in (_pgbackrest, _restore):
            self.monkeypatch.setattr(module, "PROGRAMS", str(self.home))

    def answer(self, command: str, out: Any, rc: int = 0, files: dict[str, str] | None = None) -> None:
        text = out if isinstance(out, str) else json.dumps(out)
        self.answers.setdefault(command, []).append({"rc": rc, "out": text, "files": files or {}})
        (self.home / "answers.json").write_text(json.dumps(self.answers))

    def calls(self, command: str) -> list[list[str]]:
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if words[0] == command]


def backup(label: str, stop: int, **changes: Any) -> dict[str, Any]:
    """One backup as `pgbackrest info` tells it, on timeline 1 unless told otherwise."""
    timeline, lsn = changes.pop("timeline", 1), changes.pop("lsn", "0/3000100")
    wal = f"{timeline:08X}0000000000000003"
    return {
        "label": label,
        "type": "full" if label.endswith("F") else "incr",
        "timestamp": {"start": stop - 5, "stop": stop},
        "database": {"id": 1, "repo-key": 1},
        "error": False,
        "info": {"size": 50_000_000, "delta": 40_000_000, "repository": {"delta": 9_000_000}},
        "lsn": {"start": "0/3000028", "stop": lsn},
        "archive": {"start": wal, "stop": wal},
        "reference": None,
        **changes,
    }


def info(*backups: dict[str, Any], code: int = 0, message: str = "ok", newest_wal: str | None = None) -> Any:
    """The whole answer of `pgbackrest info --output=json`."""
    return [
        {
            "name": "muster",
            "status": {"code": code, "message": message, "lock": {"backup": {"held": False}}},
            "repo": [{"key": 1, "status": {"code": code, "message": message}}],
            "archive": [
                {
                    "id": "17-1",
                    "database": {"id": 1, "repo-key": 1},
                    "min": "000000010000000000000001",
                    "max": newest_wal or "000000010000000000000009",
                }
            ],
            "backup": list(backups),
        }
    ]


NO_STANZA = info(code=1, message="missing stanza path")
