#!/bin/bash
# Dump each database of DATABASES, in this order, to /work/NAME.dump; /work/NAME.revisions says of which version its
# tables are.
set -euo pipefail

ask() { # DATABASE SQL
    psql --no-psqlrc --quiet --tuples-only --no-align --field-separator=' ' --set=ON_ERROR_STOP=1 --command="$2" "service=$1"
}

for database in $DATABASES; do
    pg_dump --format=custom --no-owner --no-privileges --file="/work/$database.dump" "service=$database"
    ask "$database" "SELECT format('SELECT %L, version_num FROM %I.%I;', tablename, schemaname, tablename) FROM pg_tables
        WHERE tablename LIKE 'alembic\_version%' ORDER BY 1" |
        while read -r query; do ask "$database" "$query"; done >"/work/$database.revisions"
    echo "database $database: $(stat --format=%s "/work/$database.dump") bytes"
done
