-- CreateEnum
CREATE TYPE "DrainState" AS ENUM ('waiting', 'moving', 'paused', 'held', 'returning', 'empty', 'incomplete', 'cancelled', 'returned');

-- CreateTable
CREATE TABLE "Measurement" (
    "id" TEXT NOT NULL,
    "kind" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "fromId" TEXT NOT NULL,
    "toId" TEXT NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "residentMiB" DOUBLE PRECISION,
    "dirtyMiBPerS" DOUBLE PRECISION,
    "concurrency" DOUBLE PRECISION NOT NULL,
    "seconds" DOUBLE PRECISION NOT NULL,
    "transferS" DOUBLE PRECISION NOT NULL,
    "bytes" BIGINT NOT NULL,
    "downtimeMs" INTEGER,
    "phases" JSONB NOT NULL DEFAULT '[]',
    "at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "Measurement_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "VmLoad" (
    "vmId" TEXT NOT NULL,
    "residentMiB" DOUBLE PRECISION,
    "dirtyMiBPerS" DOUBLE PRECISION,
    "at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "VmLoad_pkey" PRIMARY KEY ("vmId")
);

-- CreateTable
CREATE TABLE "Drain" (
    "id" TEXT NOT NULL,
    "hostId" TEXT NOT NULL,
    "number" INTEGER NOT NULL,
    "ownerId" TEXT NOT NULL,
    "state" "DrainState" NOT NULL,
    "deadline" TIMESTAMPTZ(3) NOT NULL,
    "strategy" TEXT NOT NULL,
    "confidence" DOUBLE PRECISION NOT NULL,
    "returnAfter" TIMESTAMPTZ(3),
    "goBack" BOOLEAN NOT NULL DEFAULT false,
    "wasSchedulable" BOOLEAN NOT NULL,
    "wasAccepting" BOOLEAN NOT NULL,
    "reason" TEXT,
    "plan" JSONB,
    "remaining" JSONB,
    "predictedS" DOUBLE PRECISION,
    "boundS" DOUBLE PRECISION,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "workflowAt" TIMESTAMPTZ(3),
    "startedAt" TIMESTAMPTZ(3),
    "emptiedAt" TIMESTAMPTZ(3),
    "cancelRequestedAt" TIMESTAMPTZ(3),
    "finishedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Drain_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "Measurement_kind_at_idx" ON "Measurement"("kind", "at");

-- CreateIndex
CREATE INDEX "Measurement_at_idx" ON "Measurement"("at");

-- CreateIndex
CREATE INDEX "Drain_state_createdAt_idx" ON "Drain"("state", "createdAt");

-- CreateIndex
CREATE INDEX "Drain_createdAt_id_idx" ON "Drain"("createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "Drain_hostId_number_key" ON "Drain"("hostId", "number");

-- AddForeignKey
ALTER TABLE "VmLoad" ADD CONSTRAINT "VmLoad_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Drain" ADD CONSTRAINT "Drain_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

CREATE TRIGGER "Drain_transition" BEFORE UPDATE ON "Drain" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'waiting>moving', 'waiting>paused', 'waiting>held', 'waiting>returning', 'waiting>empty', 'waiting>incomplete', 'waiting>cancelled',
  'moving>waiting', 'moving>paused', 'moving>held', 'moving>returning', 'moving>empty', 'moving>incomplete', 'moving>cancelled',
  'paused>waiting', 'paused>moving', 'paused>held', 'paused>returning', 'paused>empty', 'paused>incomplete', 'paused>cancelled',
  'held>returning', 'held>returned', 'held>cancelled',
  'returning>returned', 'returning>cancelled');

-- A host is emptied once at a time.
CREATE UNIQUE INDEX "Drain_one_under_way" ON "Drain" ("hostId")
  WHERE state IN ('waiting', 'moving', 'paused', 'held', 'returning');

ALTER TABLE "Drain"
  ADD CONSTRAINT "Drain_strategy" CHECK (strategy IN ('auto', 'sequential', 'parallel')),
  ADD CONSTRAINT "Drain_confidence" CHECK (confidence > 0.5 AND confidence < 1),
  ADD CONSTRAINT "Drain_returns_later" CHECK ("returnAfter" IS NULL OR "returnAfter" >= deadline),
  ADD CONSTRAINT "Drain_finished" CHECK ((state IN ('empty', 'incomplete', 'cancelled', 'returned')) = ("finishedAt" IS NOT NULL)),
  ADD CONSTRAINT "Drain_emptied" CHECK (state NOT IN ('empty', 'held') OR "emptiedAt" IS NOT NULL);

ALTER TABLE "Measurement"
  ADD CONSTRAINT "Measurement_kind" CHECK (kind IN ('live', 'suspend', 'copy', 'resume')),
  ADD CONSTRAINT "Measurement_figures" CHECK (
    seconds >= 0 AND "transferS" >= 0 AND bytes >= 0 AND concurrency >= 1 AND "downtimeMs" >= 0 AND "memoryMiB" > 0);

-- A host that is being emptied takes nothing new, whoever wants to open it: its drain has to end first.
CREATE FUNCTION berth_check_drained() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  drain text;
BEGIN
  SELECT id INTO drain FROM "Drain" WHERE "hostId" = NEW.id AND state IN ('waiting', 'moving', 'paused', 'held');
  IF drain IS NOT NULL THEN
    RAISE EXCEPTION 'Host % is being emptied by %: cancel that first', NEW.id, drain USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Host_drained" BEFORE UPDATE OF schedulable, "acceptsMigrations" ON "Host" FOR EACH ROW
WHEN ((NEW.schedulable AND NOT OLD.schedulable) OR (NEW."acceptsMigrations" AND NOT OLD."acceptsMigrations"))
EXECUTE FUNCTION berth_check_drained();
