# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action of muster.platform.dr_status: one table of all stores, and its JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.muster.platform.plugins.filter.topology import region
from ansible_collections.muster.platform.plugins.module_utils._dr_status import judge, silent, table
from ansible_collections.muster.platform.plugins.module_utils._files import write_file

display = Display()


class ActionModule(ActionBase):
    """Runs on the controller only, over facts that the stores' status verbs have set."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(
            argument_spec={
                "stores": {"type": "list", "elements": "str", "required": True},
                "dest": {"type": "path"},
                "show": {"type": "bool", "default": True},
                "end_run": {"type": "bool", "default": False},
                "reasons": {"type": "list", "elements": "str", "default": []},
            }
        )
        variables = task_vars or {}
        rows = [row for store in arguments["stores"] for row in self._rows(store, variables)]
        found = judge(rows, arguments["reasons"])
        if arguments["dest"]:
            at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            document = {"schema_version": 1, "at": at, **found, "stores": rows}
            path = Path(arguments["dest"])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(document, indent=2, sort_keys=True) + "\n", 0o644)
        if arguments["show"]:
            display.display("\n" + "\n".join(table(rows)))
            display.display(
                f"\n{found['status']}" + "".join(f"\n  - {reason}" for reason in found["reasons"]) + "\n"
            )
        if arguments["end_run"]:
            result["muster_exit_code"] = found["exit_code"]
        return result | {"changed": False, "rows": rows, **found}

    @staticmethod
    def _rows(store: str, variables: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for host in variables["groups"].get(store, []):
            facts = variables["hostvars"][host]
            status = (facts.get("recovery_statuses") or {}).get(store)
            if not status:
                rows.append(silent(store, region(facts["group_names"]), host))
                continue
            rows.append({**status, "host": host})
        return rows
