# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the hosts' restore proofs say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Proof = Mapping[str, Any]


def failed(proof: Proof) -> list[str]:
    """What did not pass; a proof in which nothing was checked is none."""
    if not proof["checks"]:
        return ["nothing was checked"]
    return [check["detail"] for check in proof["checks"] if not check["passed"]]


def line(proof: Proof) -> str:
    details = "; ".join(check["detail"] for check in proof["checks"])
    point = proof["point_reached"]
    return (
        f"{proof['store']}, {proof['host']}: {proof['backup']} of {point} in {proof['seconds']} s: {details}"
    )


def judge_proofs(found: Sequence[Mapping[str, Proof]], wanted: Sequence[str]) -> dict[str, Any]:
    """Of each C(restore_proofs): a proof of each wanted store, with its checks, and lines for a person."""
    stores: dict[str, Proof] = {}
    lines, bad = [], []
    for proof in (proofs[name] for name in wanted for proofs in found if name in proofs):
        name, reasons = proof["store"], failed(proof)
        lines.append(line(proof))
        if reasons:
            reason = "; ".join(reasons)
            bad.append(f"the backup {proof['backup']} of {name} on {proof['host']} is not proven: {reason}")
        # Of several hosts the one that did not prove it is told.
        if name not in stores or (reasons and not failed(stores[name])):
            stores[name] = proof
    bad += [f"no backup of {name} was restored, so none is proven" for name in wanted if name not in stores]
    checks = [
        {**check, "name": f"restore of {name}: {check['name']}"}
        for name, proof in stores.items()
        for check in proof["checks"]
    ]
    return {"stores": stores, "checks": checks, "lines": lines, "bad": bad}


class FilterModule:
    """Filters of the namespace muster.platform."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"judge_proofs": judge_proofs}
