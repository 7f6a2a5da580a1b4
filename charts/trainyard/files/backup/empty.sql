-- Drop what the user of this connection has in the database. Extensions and what belongs to them stay.
SET lock_timeout = '30s';
SET client_min_messages = warning;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid();

DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DROP %s IF EXISTS %I.%I CASCADE', kinds.word, n.nspname, c.relname)
        FROM (VALUES ('v', 'VIEW', 1), ('m', 'MATERIALIZED VIEW', 2), ('r', 'TABLE', 3), ('p', 'TABLE', 4), ('S', 'SEQUENCE', 5))
            AS kinds (kind, word, rank)
        JOIN pg_class c ON c.relkind = kinds.kind::"char"
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND pg_has_role(c.relowner, 'USAGE')
            AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY kinds.rank
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT format('DROP TYPE IF EXISTS %I.%I CASCADE', n.nspname, t.typname)
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typtype IN ('d', 'e') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND pg_has_role(t.typowner, 'USAGE')
            AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
