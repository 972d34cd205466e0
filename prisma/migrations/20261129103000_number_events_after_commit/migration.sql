-- Events get their number after their transaction has committed, in a transaction of its own (decision 95): no commit waits for
-- another's flush to the disk.

DROP TRIGGER "Event_number" ON "Event";
DROP FUNCTION berth_number_event();

-- Until then an event has a number far below zero, in the order in which events were written.
CREATE OR REPLACE FUNCTION berth_draft_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.seq := nextval('"Event_seq_seq"') - 4611686018427387904;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION berth_keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.seq < 0 AND NEW.seq > 0 AND to_jsonb(NEW) - 'seq' = to_jsonb(OLD) - 'seq' THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'Event % was published; it can be neither changed nor deleted', OLD.id USING ERRCODE = 'BE005';
END $$;

-- Numbers the events whose transactions have committed, the oldest first, and returns how many. Whoever numbers holds the lock
-- to the end of its transaction, and the next one begins after that commit: so whoever sees number n sees every smaller one,
-- and a cursor never passes an event that is yet to get its number. One up at a time, so that a gap is a loss. An event is
-- visible here once it is committed, and of two of which one was written after the other had committed, the first is numbered
-- no later and, in one round, before it. (Each statement of this function has a snapshot of its own.)
CREATE FUNCTION berth_number_events(most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  last bigint;
  numbered int;
BEGIN
  IF NOT EXISTS (SELECT FROM "Event" WHERE seq < 0) THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock(7305, 1);
  SELECT GREATEST(max(seq), 0) INTO last FROM "Event";
  UPDATE "Event" e SET seq = last + d.n
  FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS n FROM (SELECT seq FROM "Event" WHERE seq < 0 ORDER BY seq LIMIT most) o) d
  WHERE e.seq = d.seq;
  GET DIAGNOSTICS numbered = ROW_COUNT;
  RETURN numbered;
END $$;

-- Each event leaves one dead entry in the index of numbers: vacuum before looking for new events means reading many.
ALTER TABLE "Event" SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100000);
