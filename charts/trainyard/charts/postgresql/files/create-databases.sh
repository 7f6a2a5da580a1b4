#!/bin/bash
# Make a role and a database that it owns for each name in DATABASES, with the password in <NAME>_PASSWORD.
# Run once by the image's entry point, when the data directory is empty.
set -euo pipefail

for name in $DATABASES; do
    password="${name^^}_PASSWORD"
    psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres --quiet \
        --set=name="$name" --set=password="${!password}" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
    echo "made the role and the database $name"
done
