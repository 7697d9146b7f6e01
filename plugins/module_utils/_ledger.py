# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading the canary's ledger where it lies: the current file, and a packed file per finished hour."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.muster.platform.plugins.module_utils._errors import MusterError

COLUMNS = "store,sequence,sent_at,acknowledged_at,endpoint,answer"
CURRENT = "ledger.csv"
FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
# A row is written when its attempt ends, up to two seconds after it began.
SLACK = timedelta(minutes=1)
LOOKS = 5


def now_text() -> str:
    return datetime.now(UTC).strftime(FORMAT)


def read_time(text: str, what: str) -> datetime:
    """A UTC time in ISO 8601; a MusterError names what is wrong."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise MusterError(f"{what} is not a time in ISO 8601: {text}") from error
    if found.tzinfo is None:
        raise MusterError(f"{what} must name its time zone, such as a Z at the end: {text}")
    return found.astimezone(UTC)


def read_canary_config(path: str) -> dict[str, Any]:
    """The canary's configuration; its text is never shown, because it holds passwords."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MusterError(
            f"cannot read {path}: {error.strerror}; has the role canary run on this host?"
        ) from error
    except ValueError as error:
        raise MusterError(f"{path} is not valid JSON") from error
    if not isinstance(config, dict) or "stores" not in config or "directory" not in config:
        raise MusterError(f"{path} is not a configuration of the canary")
    return {**config, "path": path}


def hour_of(path: Path) -> datetime | None:
    """The hour that a finished file began in, from its name."""
    try:
        return datetime.strptime(path.name[len("ledger-") :][:11], "%Y%m%dT%H").replace(tzinfo=UTC)
    except ValueError:
        return None


def select_files(finished: Iterable[Path], start: datetime, end: datetime) -> list[Path]:
    """The finished files, oldest first, that may hold rows of the window."""
    known = sorted((hour, path) for path in finished if (hour := hour_of(path)) is not None)
    chosen = []
    for number, (hour, path) in enumerate(known):
        later = [begin for begin, _path in known[number + 1 :] if begin > hour]
        last = later[0] if later else datetime.max.replace(tzinfo=UTC) - SLACK
        if hour <= end + SLACK and last + SLACK >= start:
            chosen.append(path)
    return chosen


def lines_of(path: Path, stream: Any = None) -> Iterator[str]:
    """The lines of one file, plain or packed; the end of a line that is being written is left out."""
    if path.suffix == ".gz":
        stream = gzip.open(path, "rb")  # noqa: SIM115  closed below
    elif stream is None:
        stream = path.open("rb")
    with stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line.decode("utf-8", "replace").rstrip("\r\n")


def in_window(lines: Iterable[str], start: str, end: str) -> Iterator[str]:
    """The rows sent in the window. Times of one width compare as text; what has no time is kept."""
    for line in lines:
        parts = line.split(",", 3)
        if line == COLUMNS:
            continue
        if len(parts) < 4 or len(parts[2]) != len(start) or start <= parts[2] <= end:
            yield line


def read_window(directory: str, start: datetime, end: datetime) -> list[str]:
    """All rows that were sent in the window, in the ledger's order, each once."""
    for _look in range(LOOKS):
        try:
            return _read_window(Path(directory), start, end)
        except FileNotFoundError:
            continue  # a file was packed between the look and the read
        except (OSError, EOFError) as error:
            raise MusterError(f"cannot read the ledger in {directory}: {error}") from error
    raise MusterError(f"there is no ledger in {directory}")


def _read_window(directory: Path, start: datetime, end: datetime) -> list[str]:
    first, last = start.strftime(FORMAT), end.strftime(FORMAT)
    # The current file is opened before the others are listed: what is set aside in
    # between is then read twice, which the dictionary undoes, and never not at all.
    current = directory / CURRENT
    stream = current.open("rb")
    rows: dict[str, None] = {}
    try:
        for path in select_files(finished_files(directory), start, end):
            rows.update(dict.fromkeys(in_window(lines_of(path), first, last)))
    except BaseException:
        stream.close()
        raise
    rows.update(dict.fromkeys(in_window(lines_of(current, stream), first, last)))
    return list(rows)


def finished_files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("ledger-*.csv*") if path.suffix in (".csv", ".gz")]


def read_tail(directory: str, size: int = 1 << 16) -> list[list[str]]:
    """The last rows of the ledger, in its order."""
    path = Path(directory) / CURRENT
    rows = _tail_of(path, size)
    if rows:
        return rows
    # The hour has just turned.
    finished = sorted(finished_files(Path(directory)))
    return list(_well_formed(lines_of(finished[-1]))) if finished else []


def _tail_of(path: Path, size: int) -> list[list[str]]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - size))
            if stream.tell():
                stream.readline()
            text = stream.read()
    except FileNotFoundError as error:
        raise MusterError(f"there is no ledger in {path.parent}") from error
    except OSError as error:
        raise MusterError(f"cannot read {path}: {error.strerror}") from error
    whole = text[: text.rfind(b"\n") + 1].decode("utf-8", "replace")
    return list(_well_formed(whole.splitlines()))


def _well_formed(lines: Iterable[str]) -> Iterator[list[str]]:
    for line in lines:
        parts = line.split(",")
        if len(parts) == 6 and parts[1].isdecimal():
            yield parts


def endpoints_of(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Every (store, endpoint) that the canary writes through."""
    return [
        (store["name"], endpoint["name"]) for store in config["stores"] for endpoint in store["endpoints"]
    ]


def is_complete(rows: list[list[str]], config: dict[str, Any], end: str) -> bool:
    """Whether the ledger holds all that was sent until then.

    An endpoint's attempts follow each other, and each is written down when it ends. So
    one that began later than the end of the window says that none of the window is open.
    """
    later = {(row[0], row[4]) for row in rows if row[2] > end}
    return later.issuperset(endpoints_of(config))


def wait_complete(
    config: dict[str, Any],
    end: str,
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> bool:
    """Wait until the ledger is complete for a window that ends then; False when it did not become so."""
    deadline = clock() + timeout
    size = 1 << 16
    while True:
        if is_complete(read_tail(config["directory"], size), config, end):
            return True
        if clock() >= deadline:
            return False
        sleep(0.05)
