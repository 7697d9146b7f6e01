#!/bin/sh
# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# PostgreSQL's restore_command: one WAL or history file out of the first repository that has it.
# A repository that is gone must cost next to nothing: each promotion asks for several files that
# do not exist, and a copy that waits for a dead repository is no copy that can take over.
#
# usage: postgresql_archive_get.sh STANZA FILE TARGET
# The repositories are listed in a file, HOST PORT a line, in pgBackRest's order.
stanza=$1 file=$2 target=$3
number=0
while read -r host port <&4; do
  number=$((number + 1))
  down=/run/muster-postgresql/repository-$number-down
  # One that did not answer is left alone for ten seconds.
  [ -n "$(find "$down" -newermt '-10 seconds' 2>/dev/null)" ] && continue
  if ! timeout 1 bash -c "exec 3<>/dev/tcp/$host/$port" 2>/dev/null; then
    # In a shell of its own: where the directory is missing, the next repository must be asked all the same.
    (: >"$down") 2>/dev/null
    continue
  fi
  timeout 15 pgbackrest --stanza="$stanza" --repo="$number" archive-get "$file" "$target" && exit 0
done 4</etc/muster/postgresql/repositories
exit 1
