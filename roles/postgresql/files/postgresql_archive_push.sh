#!/bin/sh
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# PostgreSQL's archive_command: one WAL file into every repository host's repository.
# The one in S3, where there is one, is in a configuration of its own, which a named file leaves out: what it costs
# when it is down must not hold up PostgreSQL. postgresql_archive_copy.py brings it what is archived here.
# Patroni runs it too, before it rewinds an old primary, for files that were never archived. Those
# from the fork on are of a line that nobody follows: in the archive they would lead a standby that
# has not heard of the new timeline past the fork, where it stays for ever.
#
# usage: postgresql_archive_push.sh STANZA FILE
stanza=$1 file=$2
process=$PPID
for _generation in 1 2; do
  # PostgreSQL's archiver, or the shell that it starts.
  if [ "$(cat "/proc/$process/comm" 2>/dev/null)" = postgres ]; then
    exec pgbackrest --config=/etc/pgbackrest.conf --stanza="$stanza" archive-push "$file"
  fi
  process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status" 2>/dev/null)
done

name=${file##*/}
timeline=$(printf %s "$name" | cut -c1-8)
next=$(printf '%08X.history' "$((0x$timeline + 1))")
history=$(mktemp) || exit 1
trap 'rm -f "$history"' EXIT
if ! /usr/local/lib/muster/postgresql_archive_get "$stanza" "$next" "$history"; then
  echo "$name is not archived: where its timeline was left is not known" >&2
  exit 1
fi
# The last line: the timeline that was left, and the LSN where.
fork=$(awk -v own="$((0x$timeline))" '$1 == own { print $2 }' "$history")
# Arithmetic with anything else than two hexadecimal numbers would end the shell, or count on.
if ! printf %s "$fork" | tr '\n' ' ' | grep -Eqx '[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}'; then
  echo "$name is not archived: the history of its timeline does not say where it was left" >&2
  exit 1
fi
segment=$(printf '%s%08X%08X' "$timeline" "$((0x${fork%/*}))" "$((0x${fork#*/} >> 24))")
if [ "$(printf '%s\n' "$name" "$segment" | sort | head -n 1)" != "$name" ] || [ "$name" = "$segment" ]; then
  echo "$name is not archived: its timeline was left at $fork" >&2
  exit 1
fi
# This one alone: the asynchronous way would take along all that wait.
pgbackrest --config=/etc/pgbackrest.conf --stanza="$stanza" --no-archive-async archive-push "$file"
