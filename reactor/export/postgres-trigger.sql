-- Tells reactor at once when a job's status changes or its row goes: a NOTIFY with the job's id.
--
--   reactor export postgres-trigger > reactor-trigger.sql
--   psql "$DATABASE_URL" -v table=jobs -v id=id -v status=status -v channel=reactor_jobs -f reactor-trigger.sql
--
-- and for the worker REACTOR_DIRECTORY_CHANNEL=reactor_jobs. Whatever of these is not given is as above. A NOTIFY is sent
-- when the transaction commits, never where it is rolled back, and costs nothing that waits. To take it away again:
--   DROP FUNCTION reactor_notify() CASCADE;

\set ON_ERROR_STOP on
\if :{?table} \else \set table jobs \endif
\if :{?id} \else \set id id \endif
\if :{?status} \else \set status status \endif
\if :{?channel} \else \set channel reactor_jobs \endif

BEGIN;

CREATE OR REPLACE FUNCTION reactor_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- TG_ARGV: the channel, the column of the id, the column of the status. The status is compared here, not in the
    -- trigger's WHEN: a trigger that names a column would keep the next migration from altering its type.
    IF TG_OP = 'UPDATE' AND to_jsonb(OLD) ->> TG_ARGV[2] IS NOT DISTINCT FROM to_jsonb(NEW) ->> TG_ARGV[2] THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify(TG_ARGV[0], to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[1]);
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS reactor_status ON :"table";
CREATE TRIGGER reactor_status AFTER UPDATE ON :"table" FOR EACH ROW
    EXECUTE FUNCTION reactor_notify(:'channel', :'id', :'status');

DROP TRIGGER IF EXISTS reactor_deleted ON :"table";
CREATE TRIGGER reactor_deleted AFTER DELETE ON :"table" FOR EACH ROW
    EXECUTE FUNCTION reactor_notify(:'channel', :'id', :'status');

COMMIT;
