#!/bin/sh
# A worker without any program of its own: works until nothing is due. Arguments go to psql: psql_worker.sh -d mydb
set -eu
turn=$(dirname "$0")/psql_worker.sql
while said=$("${PSQL:-psql}" -X -q -A -t -f "$turn" "$@") && [ "$said" != idle ]; do
    echo "$said"
done
[ "$said" = idle ]
