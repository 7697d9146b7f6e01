# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The planned move of the object store from one region to the other, losing nothing.

The order is the safety: the source's gateway is closed, its process gone, before its state says so; only
when a canary written after that has arrived and a comparison finds nothing missing is the target opened. Each
step is a change from an epoch that was seen to a higher one, so who comes second is refused. A run begins by
taking the target's epoch, before it closes anything, and one that goes back takes it again: what another run,
or an interrupted one, still sends to open the target then fails.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError
from ansible_collections.muster.platform.plugins.module_utils._object_storage import (
    Conflict,
    Region,
    Stores,
    missing,
)
from ansible_collections.muster.platform.plugins.module_utils._phases import Phases
from ansible_collections.muster.platform.plugins.module_utils._wait import wait_until

POLL = 0.05
RECENT = 10.0  # seconds: what changed just now may still be on its way before the source is closed


class Overtaken(MusterError):
    """Another run changed a region first: this one has closed nothing that it would have to open again."""


@dataclass
class Limits:
    """Deadlines in seconds, and what a move may not begin with."""

    max_lag: float = 30.0
    max_pause: float = 30.0
    catch_up: float = 30.0
    open: float = 30.0
    rollback: float = 60.0
    reprotect: float = 60.0


@dataclass
class Handover:
    """One planned move from C(source) to C(target)."""

    stores: Stores
    source: str
    target: str
    holder: str
    limits: Limits = field(default_factory=Limits)
    phases: Phases = field(default_factory=Phases)
    paused: float | None = None  # seconds without a region that takes writes
    proof: dict[str, Any] | None = None  # the comparison that the opening rests on

    # --- reading ---

    def look(self) -> tuple[Region, Region]:
        found = []
        for name in (self.source, self.target):
            region = self.stores.ask(name)
            if not region.known:
                raise MusterError(f"refused: the role of region {name} is not known ({region.trouble})")
            if region.role is None:
                raise MusterError(
                    f"refused: region {name} has no role yet; run the role object_storage first"
                )
            found.append(region)
        return found[0], found[1]

    def situation(self, source: Region, target: Region) -> str:
        """C(done), C(settle), C(start), C(return) or C(resume)."""
        if source.role == "primary" and target.role == "primary":
            raise MusterError(
                f"refused: both {self.source} and {self.target} are made primary; "
                "dr_reprotect makes the one that is kept closed a standby"
            )
        if target.role == "primary":
            follows = source.role == "standby" and source.state.get("primary") == self.target
            return "done" if follows else "settle"
        if source.role == "primary":
            return "start"
        # Neither takes writes: a move was interrupted. Who was primary last holds everything.
        last = {(region.state.get("move") or {}).get("from") for region in (source, target)} - {None}
        if last == {self.target}:
            return "return"
        if last == {self.source}:
            return "resume"
        raise MusterError(
            f"refused: neither {self.source} nor {self.target} is primary, and nothing tells which one was"
        )

    def assess(self, source: Region, target: Region) -> None:
        """Refuse what cannot be moved without a loss, before anything is closed."""
        if not source.open:
            raise MusterError(
                f"refused: the gateway of {self.source} is not open: {source.trouble or 'it does not run'}"
            )
        if not target.told.get("copying") or target.told.get("source") != source.host:
            raise MusterError(
                f"refused: {self.target} does not copy from {self.source}, so it may lack anything"
            )
        beat = target.told.get("heartbeat") or {}
        if "at" not in beat:
            raise MusterError(f"refused: the lag of {self.target} is not known: no canary has arrived there")
        lag = time.time() - beat["at"]
        if lag > self.limits.max_lag:
            raise MusterError(
                f"refused: the newest canary in {self.target} is {lag:.0f} s old, "
                f"more than the {self.limits.max_lag:g} allowed"
            )
        found = self.stores.compare(source.host, target.host, recent=RECENT)
        if missing(found):
            raise MusterError(
                f"refused: {self.target} lacks {missing(found)} entries of {self.source}, such as "
                f"{(found['missing'] + found['different'])[0]}; it is repaired by itself, look at the status"
            )
        if found["seconds"] > self.limits.max_pause:
            raise MusterError(
                f"refused: comparing both regions took {found['seconds']:.0f} s, and nobody could write that "
                f"long; more than the {self.limits.max_pause:g} allowed (object_storage_handover_max_pause)"
            )

    # --- changing ---

    def close(self, source: Region, target: Region) -> tuple[Region, Region]:
        """Take the target's epoch, and close the source: only this run can open either from here on."""
        epoch = max(source.epoch, target.epoch) + 1
        move = {"from": self.source, "to": self.target, "at": time.time()}
        try:
            target = self.take(target, epoch)
            source = self.stores.change(
                source, epoch, role="standby", primary=None, move=move, by=self.holder
            )
        except Conflict as error:
            raise Overtaken(f"refused: {error}") from error
        return source, target

    def take(self, target: Region, epoch: int) -> Region:
        """A standby that goes on copying, under a new epoch."""
        return self.stores.change(
            target, epoch, role="standby", primary=target.state.get("primary"), by=self.holder
        )

    def closed(self, source: Region) -> None:
        if self.stores.s3_listens(source.host):
            raise MusterError(f"something still listens on the S3 port of {source.host}")

    def catch_up(self, source: Region, target: Region) -> dict[str, Any]:
        self.stores.send_canary(source, target, "handover", self.limits.catch_up)

        def complete() -> dict[str, Any] | None:
            found = self.stores.compare(source.host, target.host)
            if missing(found):
                first = (found["missing"] + found["different"])[0]
                raise MusterError(f"{missing(found)} entries are missing, such as {first}")
            return found

        what = f"{self.target} to hold all of {self.source}"
        return wait_until(complete, what, self.limits.catch_up, POLL)

    def opening(self, region: Region, epoch: int) -> Region:
        return self.stores.change(region, epoch, role="primary", primary=region.name, by=self.holder)

    def serving(self, region: Region, timeout: float) -> None:
        what = f"the gateway of {region.name} to serve"
        wait_until(lambda: self.stores.s3_healthy(region.host), what, timeout, POLL)

    def settle(self, source: Region, target: Region) -> None:
        """Have the old primary follow the new one, and see a canary arrive there."""
        if source.state.get("primary") != self.target:
            epoch = max(source.epoch + 1, target.epoch)
            source = self.stores.change(source, epoch, role="standby", primary=self.target, by=self.holder)
        self.stores.send_canary(target, source, "reprotect", self.limits.reprotect)

    # --- going back ---

    def roll_back(self, reason: MusterError) -> Region:
        """Open the source again and raise; the target is returned when it had been opened after all."""
        try:
            what = f"region {self.source} to be primary again"
            opened = wait_until(self._back, what, self.limits.rollback, 0.3)
        except MusterError as error:
            raise MusterError(
                f"the move to {self.target} failed ({reason}) and could not be rolled back ({error}); no "
                f"region takes writes until the same command, or one back to {self.source}, has succeeded"
            ) from error
        if opened.name == self.target:
            return opened
        raise MusterError(f"the move to {self.target} failed and was rolled back: {reason}") from reason

    def _back(self) -> Region:
        source, target = self.stores.ask(self.source), self.stores.ask(self.target)
        if not source.known:
            raise MusterError(source.trouble)
        if not target.known:
            raise MusterError(f"whether {self.target} was opened is not known: {target.trouble}")
        if target.role == "primary":
            self.serving(target, self.limits.open)
            return target
        if source.role != "primary":
            epoch = max(source.epoch, target.epoch) + 1
            self.take(target, epoch)
            source = self.opening(source, epoch)
        self.serving(source, self.limits.rollback)
        return source

    # --- the whole ---

    def run(self, check: bool = False) -> dict[str, Any]:
        source, target = self.look()
        situation = self.situation(source, target)
        if situation == "start":
            with self.phases("handover: compare"):
                self.assess(source, target)
        if check:
            return {"changed": situation != "done", "situation": situation}
        if situation == "done":
            if not target.open:
                raise MusterError(
                    f"refused: {self.target} is primary, but closed: {target.trouble or 'it starts'}"
                )
            return {"changed": False, "situation": situation, "epoch": target.epoch}
        if situation in ("start", "resume"):
            target = self._move(source, target)
            source = self.stores.ask(self.source)
        elif situation == "return":
            epoch = max(source.epoch, target.epoch) + 1
            self.take(source, epoch)
            target = self.opening(target, epoch)
            source = self.stores.ask(self.source)
        self.serving(target, self.limits.open)
        with self.phases("handover: re-protect"):
            self.settle(source, target)
        return {"changed": True, "situation": situation, "epoch": target.epoch}

    def _move(self, source: Region, target: Region) -> Region:
        began = time.monotonic()
        try:
            with self.phases("handover: close"):
                source, target = self.close(source, target)
                self.closed(source)
            with self.phases("handover: catch up"):
                self.proof = self.catch_up(source, target)
            with self.phases("handover: open"):
                opened = self.opening(target, target.epoch + 1)
                self.serving(opened, self.limits.open)
        except Overtaken:
            raise
        except MusterError as error:
            opened = self.roll_back(error)
        self.paused = round(time.monotonic() - began, 3)
        return opened
