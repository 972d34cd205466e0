-- Events get their number while their transaction commits, and not when they are inserted: the lock that orders them is
-- then held for the time of a commit, however slow the process is that writes them.

DROP TRIGGER "Event_number" ON "Event";

-- Until then an event has a number below zero, which nobody else ever sees.
CREATE FUNCTION berth_draft_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.seq := -nextval('"Event_seq_seq"');
  RETURN NEW;
END $$;
CREATE TRIGGER "Event_draft" BEFORE INSERT ON "Event" FOR EACH ROW EXECUTE FUNCTION berth_draft_event();

CREATE OR REPLACE FUNCTION berth_number_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7305, 1);
  UPDATE "Event" SET seq = (SELECT GREATEST(max(seq), 0) + 1 FROM "Event") WHERE seq = NEW.seq;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER "Event_number" AFTER INSERT ON "Event" DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION berth_number_event();

CREATE OR REPLACE FUNCTION berth_keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.seq < 0 AND to_jsonb(NEW) - 'seq' = to_jsonb(OLD) - 'seq' THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'Event % was published; it can be neither changed nor deleted', OLD.id USING ERRCODE = 'BE005';
END $$;
