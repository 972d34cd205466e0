-- Events lie in partitions by their numbers, which are in the order of time: what is older than the retention goes as a whole
-- table, and a cursor reads the partitions after it alone (decision 110). The first partition takes the events that are there.

LOCK TABLE "Event" IN ACCESS EXCLUSIVE MODE;
-- Those that have no number yet get one: all of them are committed.
DO $$ BEGIN
  WHILE berth_number_events(100000) > 0 LOOP NULL; END LOOP;
END $$;
DROP TRIGGER "Event_draft" ON "Event";
DROP TRIGGER "Event_keep" ON "Event";
DROP FUNCTION berth_draft_event();

-- No two events that are kept have the same id. A partitioned table can't say so by an index.
CREATE TABLE "EventId" (
    "id" TEXT NOT NULL,

    CONSTRAINT "EventId_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "EventPartition" (
    "from" BIGINT NOT NULL,
    "until" BIGINT NOT NULL,
    "openedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "idsRemovedTo" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "EventPartition_pkey" PRIMARY KEY ("from")
);

-- CreateTable
CREATE TABLE "EventLog" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "floor" BIGINT NOT NULL DEFAULT 0,
    "retentionDays" DOUBLE PRECISION,
    "leastWidth" BIGINT NOT NULL DEFAULT 100000,
    "mostWidth" BIGINT NOT NULL DEFAULT 1000000,

    CONSTRAINT "EventLog_pkey" PRIMARY KEY ("row")
);
ALTER TABLE "EventLog" ADD CONSTRAINT "EventLog_one" CHECK (row = 1);
ALTER TABLE "EventLog" ADD CONSTRAINT "EventLog_width" CHECK (0 < "leastWidth" AND "leastWidth" <= "mostWidth");
INSERT INTO "EventLog" (row) VALUES (1);
INSERT INTO "EventId" (id) SELECT id FROM "Event" ORDER BY id;
INSERT INTO "EventPartition" ("from", until, "openedAt")
  SELECT 1, GREATEST(COALESCE(max(seq), 0), 0) + 100001, COALESCE((SELECT time FROM "Event" ORDER BY seq LIMIT 1), now()) FROM "Event";

ALTER TABLE "Event" RENAME TO "Event_1";
ALTER TABLE "Event_1" RENAME CONSTRAINT "Event_pkey" TO "Event_1_pkey";
ALTER INDEX "Event_ownerId_seq_idx" RENAME TO "Event_1_ownerId_seq_idx";
ALTER INDEX "Event_type_seq_idx" RENAME TO "Event_1_type_seq_idx";
DROP INDEX "Event_id_key";
ALTER TABLE "Event_1" RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
ALTER SEQUENCE "Event_seq_seq" OWNED BY NONE;

-- Until it is numbered an event has a number far below zero, in the order in which events were written.
CREATE TABLE "Event" (
    "seq" BIGINT NOT NULL DEFAULT nextval('"Event_seq_seq"') - 4611686018427387904,
    "id" TEXT NOT NULL,
    "type" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "time" TIMESTAMPTZ(3) NOT NULL,
    "data" JSONB NOT NULL,

    CONSTRAINT "Event_pkey" PRIMARY KEY ("seq")
) PARTITION BY RANGE ("seq");
CREATE INDEX "Event_ownerId_seq_idx" ON "Event" ("ownerId", "seq");
CREATE INDEX "Event_type_seq_idx" ON "Event" ("type", "seq");
ALTER SEQUENCE "Event_seq_seq" OWNED BY "Event"."seq";
ALTER TABLE "Event_1" ALTER COLUMN seq SET DEFAULT nextval('"Event_seq_seq"') - 4611686018427387904;

-- Events that are not numbered yet: few, as long as somebody numbers them. Each leaves a dead row when it is: vacuum before
-- looking for new events means reading many.
CREATE TABLE "Event_draft" PARTITION OF "Event" FOR VALUES FROM (MINVALUE) TO (0);
ALTER TABLE "Event_draft" SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_threshold = -1);

DO $$ DECLARE upper bigint;
BEGIN
  SELECT until INTO upper FROM "EventPartition";
  EXECUTE format('ALTER TABLE "Event" ATTACH PARTITION "Event_1" FOR VALUES FROM (1) TO (%s)', upper);
END $$;

-- A second event of the same id waits for the transaction of the first, and is refused when that has committed.
CREATE FUNCTION berth_name_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO "EventId" (id) VALUES (NEW.id);
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION berth_keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    RAISE EXCEPTION 'Event % has a number; it gets one after its transaction', NEW.id USING ERRCODE = 'BE005';
  END IF;
  RAISE EXCEPTION 'Event % was published; it can be neither changed nor deleted', OLD.id USING ERRCODE = 'BE005';
END $$;
CREATE TRIGGER "Event_name" BEFORE INSERT ON "Event" FOR EACH ROW WHEN (NEW.seq < 0) EXECUTE FUNCTION berth_name_event();
-- berth_number_events moves rows from one partition to another, which is an update, a deletion and an insertion.
CREATE TRIGGER "Event_number" BEFORE INSERT ON "Event" FOR EACH ROW
  WHEN (NEW.seq >= 0 AND current_setting('berth.numbering', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION berth_keep_event();
CREATE TRIGGER "Event_keep" BEFORE UPDATE OR DELETE ON "Event" FOR EACH ROW
  WHEN (current_setting('berth.numbering', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION berth_keep_event();

-- Writes an event unless there is one of its id, and says whether it did.
CREATE FUNCTION berth_write_event_once(id text, type text, subject text, owner text, at timestamptz, data jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  violated text;
BEGIN
  INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES (id, type, subject, owner, at, data);
  RETURN true;
EXCEPTION WHEN unique_violation THEN
  GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
  IF violated <> 'EventId_pkey' THEN
    RAISE;
  END IF;
  RETURN false;
END $$;

-- Opens the partition after the newest, as wide as the events of the last day, within bounds: so many stay together, and go
-- together. The process that numbers events calls it, under its lock. Attaching a table holds up neither writers nor readers.
CREATE FUNCTION berth_open_event_partition() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  start bigint;
  width bigint;
BEGIN
  SELECT max(until) INTO start FROM "EventPartition";
  SELECT LEAST(GREATEST(COALESCE((SELECT start - min("from") FROM "EventPartition" WHERE "openedAt" > now() - interval '1 day'), 0),
    "leastWidth"), "mostWidth") INTO width FROM "EventLog";
  EXECUTE format('CREATE TABLE %I (LIKE "Event" INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', 'Event_' || start);
  EXECUTE format('ALTER TABLE "Event" ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', 'Event_' || start, start, start + width);
  INSERT INTO "EventPartition" ("from", until) VALUES (start, start + width);
END $$;

-- Numbers the events whose transactions have committed, the oldest first, and returns how many. Whoever numbers holds the lock
-- to the end of its transaction, and the next one begins after that commit: so whoever sees number n sees every smaller one,
-- and a cursor never passes an event that is yet to get its number. One up at a time, so that a gap is a loss. An event is
-- visible here once it is committed, and of two of which one was written after the other had committed, the first is numbered
-- no later and, in one round, before it. (Each statement of this function has a snapshot of its own.)
CREATE OR REPLACE FUNCTION berth_number_events(most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  first bigint;
  upper bigint;
  last bigint;
  drafts bigint[];
BEGIN
  IF NOT EXISTS (SELECT FROM "Event_draft") THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock(7305, 1);
  -- Numbers go on after the newest event, or where that partition begins: what was before it may have gone.
  SELECT "from", until INTO first, upper FROM "EventPartition" ORDER BY "from" DESC LIMIT 1;
  SELECT GREATEST(max(seq), first - 1) INTO last FROM "Event" WHERE seq >= first;
  -- Once: an event that is committed after it is numbered later.
  SELECT array_agg(seq ORDER BY seq) INTO drafts FROM (SELECT seq FROM "Event_draft" ORDER BY seq LIMIT most) d;
  IF drafts IS NULL THEN
    RETURN 0;
  END IF;
  WHILE last + cardinality(drafts) >= upper LOOP
    PERFORM berth_open_event_partition();
    SELECT max(until) INTO upper FROM "EventPartition";
  END LOOP;
  PERFORM set_config('berth.numbering', 'on', true);
  UPDATE "Event" e SET seq = last + d.n FROM unnest(drafts) WITH ORDINALITY AS d(seq, n) WHERE e.seq = d.seq AND e.seq < 0;
  PERFORM set_config('berth.numbering', '', true);
  RETURN cardinality(drafts);
END $$;

-- What has ended, of VMs that stand alone, by when.
CREATE INDEX "Vm_alone_ended" ON "Vm" (COALESCE("endedAt", "removalRequestedAt", "createdAt"))
  WHERE state = 'removed' AND "taskId" IS NULL;
