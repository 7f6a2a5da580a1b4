#!/bin/sh
# Make a role and a database that it owns for each name in DATABASES, with the password in <NAME>_PASSWORD.
# The image's entry point runs this once, when the data directory is empty.
set -eu

for name in $DATABASES; do
    password=$(printenv "$(echo "$name" | tr '[:lower:]' '[:upper:]')_PASSWORD")
    psql --no-psqlrc --quiet --username=postgres --dbname=postgres \
        --set=ON_ERROR_STOP=1 --set=name="$name" --set=password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
    echo "made the role and the database $name"
done
