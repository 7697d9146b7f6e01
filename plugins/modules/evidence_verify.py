#!/usr/bin/python
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_verify
short_description: Check the whole chain of drills, offline
version_added: 0.1.0
description:
  - Runs on the controller, or wherever a copy of the drills' directory is. Reads, and changes nothing.
  - For every drill, oldest first, checks that each file is what C(manifest.sha256) says it was, none is
    missing and none was added; that the signature over the manifest is one of O(signer); that the manifest of
    the drill before it is what this one says it was; and that the figures in C(evidence.json) follow from
    C(ledger.csv).
  - The link C(latest) must name the newest drill of the chain, and no drill may stand beside the chain.
  - Fails at anything wrong, and names the first drill and file.
  - A chain whose newest drills were all taken away, and C(latest) moved back, is a shorter chain, and nothing
    in it shows that. Give O(newest_sha256), noted elsewhere, to notice.
options:
  directory:
    description: Directory that holds the folders of all drills.
    type: path
    required: true
  signer:
    description: Name in O(allowed_signers) that all drills must be signed by.
    type: str
    default: muster
  allowed_signers:
    description:
      - File with the public keys that count, in the form of C(ssh-keygen). An auditor gives a copy of their
        own; by default it is the file of this name in O(directory), which whoever can change the drills can
        change too.
    type: path
  drill_id:
    description: Newest drill to look at, with all before it. By default the one that C(latest) names.
    type: str
  require_signatures:
    description:
      - Whether a drill that is not signed is wrong. When it is not, drills older than the first signed one
        may be unsigned; they are named in RV(unsigned).
    type: bool
    default: true
  newest_sha256:
    description:
      - SHA-256 of a C(manifest.sha256) that was noted elsewhere after some drill. It must be in the chain.
    type: str
extends_documentation_fragment:
  - muster.platform.info
requirements:
  - ssh-keygen of OpenSSH 8.2 or later
author: The Muster authors (@muster-platform)
"""

EXAMPLES = r"""
- name: Check the chain with a copy of the keys that was kept apart
  muster.platform.evidence_verify:
    directory: /srv/drills
    allowed_signers: /media/auditor/allowed_signers
  delegate_to: localhost
"""

RETURN = r"""
drills:
  description: The drills of the chain, oldest first.
  returned: always
  type: list
  elements: dict
  contains:
    drill_id: {description: Its name., type: str}
    manifest_sha256: {description: SHA-256 of its manifest., type: str}
    previous: {description: The drill before it; null for the first., type: str}
    signed: {description: Whether it has a signature., type: bool}
    scenario: {description: What was drilled., type: str}
    verdict: {description: V(PASS) or V(FAIL)., type: str}
    finished_at: {description: When it ended in UTC., type: str}
head:
  description: The newest drill. Null when there is none.
  returned: always
  type: str
head_sha256:
  description: SHA-256 of its manifest, to note elsewhere for O(newest_sha256).
  returned: always
  type: str
unsigned:
  description: Drills without a signature.
  returned: always
  type: list
  elements: str
outside:
  description: What else is in the directory, such as half-written folders and drills without a manifest.
  returned: always
  type: list
  elements: str
problems:
  description: Everything that is wrong, the oldest drill first. Empty on success.
  returned: always
  type: list
  elements: str
summary:
  description: Lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.muster.platform.plugins.module_utils import _chain, _chain_check
from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError


def verify(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the chain; what is found, with all that is wrong."""
    directory = Path(parameters["directory"])
    if not _chain.PRINCIPAL.fullmatch(parameters["signer"]):
        raise MusterError(f"signer may hold letters, digits and _ . @ + - only: {parameters['signer']!r}")
    signers = Path(parameters["allowed_signers"] or directory / _chain.SIGNERS)
    if parameters["allowed_signers"] and not signers.is_file():
        raise MusterError(f"allowed_signers: there is no file {signers}")
    trust = _chain_check.Trust(signers, parameters["signer"], parameters["require_signatures"])
    found = _chain_check.check_chain(directory, trust, parameters["drill_id"])
    noted = parameters["newest_sha256"]
    if noted and noted not in [drill["manifest_sha256"] for drill in found.drills]:
        found.problems.append(f"newest_sha256: no drill of the chain has a manifest with the hash {noted}")
    head = found.drills[-1] if found.drills else {}
    return {
        "changed": False,
        "drills": found.drills,
        "head": head.get("drill_id"),
        "head_sha256": head.get("manifest_sha256"),
        "unsigned": found.unsigned,
        "outside": found.outside,
        "problems": found.problems,
    }


def summary(result: dict[str, Any]) -> list[str]:
    drills = result["drills"]
    lines = [
        f"{drill['drill_id']}  {drill['verdict']}  {'signed' if drill['signed'] else 'NOT SIGNED'}"
        for drill in drills
    ]
    lines.append(f"{len(drills)} drills, each as it was written; the newest is {result['head']}")
    lines.append(f"note elsewhere: {result['head_sha256']}  {result['head']}/{_chain.MANIFEST}")
    if result["outside"]:
        lines.append(f"in no chain, and not checked: {', '.join(result['outside'])}")
    return lines


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "signer": {"type": "str", "default": "muster"},
            "allowed_signers": {"type": "path"},
            "drill_id": {"type": "str"},
            "require_signatures": {"type": "bool", "default": True},
            "newest_sha256": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = verify(module.params)
    except MusterError as error:
        module.fail_json(msg=str(error))
    if result["problems"]:
        more = len(result["problems"]) - 1
        rest = f" (and {more} more, see problems)" if more else ""
        module.fail_json(msg=f"the chain is broken: {result['problems'][0]}{rest}", **result)
    module.exit_json(**result, summary=summary(result))


if __name__ == "__main__":
    main()
