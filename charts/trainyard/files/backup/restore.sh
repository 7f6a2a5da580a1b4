#!/bin/bash
# Put the dump /work/NAME.dump of each database of DATABASES in place of what is in the database, in one transaction: it
# is there as a whole or not at all. It takes the rights of the database's own user alone; who is connected loses the
# connection, and sees the old tables until the new ones are complete.
set -euo pipefail

tries=5

restore() { # DATABASE
    psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --single-transaction --file=/scripts/empty.sql \
        --file="/work/$1.sql" "service=$1"
}

for database in $DATABASES; do
    pg_restore --no-owner --no-privileges --no-comments --clean --if-exists --file="/work/$database.sql" "/work/$database.dump"
    # Extensions stay: one that an administrator made is not the user's to drop. What drops comes before what creates.
    # Servers before PostgreSQL 17 do not know the setting.
    sed -i '1,/^CREATE /{/^DROP EXTENSION IF EXISTS /d;/^SET transaction_timeout /d}' "/work/$database.sql"
    for try in $(seq "$tries"); do
        # Who connects again at once may hold a lock; the server then ends one of the two.
        if restore "$database"; then
            echo "database $database: restored"
            break
        elif [ "$try" = "$tries" ]; then
            printf 'error: the database %s was not restored, and is as it was\n  cure: see the lines above, then run ./scripts/restore again\n' "$database" >&2
            exit 1
        fi
        sleep 5
    done
    rm "/work/$database.sql"
done
