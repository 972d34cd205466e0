-- CreateEnum
CREATE TYPE "MigrationState" AS ENUM ('running', 'stuck', 'succeeded', 'rolledBack');

-- CreateTable
CREATE TABLE "Migration" (
    "id" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "state" "MigrationState" NOT NULL,
    "generation" INTEGER NOT NULL,
    "mode" TEXT NOT NULL,
    "fromId" TEXT NOT NULL,
    "toId" TEXT,
    "reserved" BOOLEAN NOT NULL DEFAULT false,
    "vcpus" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "phases" JSONB NOT NULL DEFAULT '[]',
    "progress" JSONB,
    "waiting" TEXT,
    "downtimeMs" INTEGER,
    "bytes" BIGINT NOT NULL DEFAULT 0,
    "requestedBy" TEXT NOT NULL,
    "reason" TEXT,
    "error" JSONB,
    "abortRequestedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "startedAt" TIMESTAMPTZ(3),
    "committedAt" TIMESTAMPTZ(3),
    "finishedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Migration_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "VmStay" (
    "vmId" TEXT NOT NULL,
    "generation" INTEGER NOT NULL,
    "hostId" TEXT NOT NULL,
    "until" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "VmStay_pkey" PRIMARY KEY ("vmId","generation")
);

-- CreateIndex
CREATE UNIQUE INDEX "Migration_vmId_generation_key" ON "Migration"("vmId", "generation");

-- CreateIndex
CREATE INDEX "Migration_ownerId_createdAt_id_idx" ON "Migration"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Migration_state_createdAt_idx" ON "Migration"("state", "createdAt");

-- AddForeignKey
ALTER TABLE "Migration" ADD CONSTRAINT "Migration_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Migration" ADD CONSTRAINT "Migration_fromId_fkey" FOREIGN KEY ("fromId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Migration" ADD CONSTRAINT "Migration_toId_fkey" FOREIGN KEY ("toId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "VmStay" ADD CONSTRAINT "VmStay_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "VmStay" ADD CONSTRAINT "VmStay_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

CREATE TRIGGER "Migration_transition" BEFORE UPDATE ON "Migration" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'running>stuck', 'running>succeeded', 'running>rolledBack',
  'stuck>succeeded', 'stuck>rolledBack');

-- A VM moves once at a time.
CREATE UNIQUE INDEX "Migration_one_under_way" ON "Migration" ("vmId") WHERE state IN ('running', 'stuck');

ALTER TABLE "Migration"
  ADD CONSTRAINT "Migration_elsewhere" CHECK ("toId" IS NULL OR "toId" <> "fromId"),
  ADD CONSTRAINT "Migration_reserved" CHECK (NOT reserved OR ("toId" IS NOT NULL AND state IN ('running', 'stuck'))),
  ADD CONSTRAINT "Migration_mode" CHECK (mode IN ('live')),
  ADD CONSTRAINT "Migration_bytes" CHECK (bytes >= 0 AND "downtimeMs" >= 0),
  ADD CONSTRAINT "Migration_committed" CHECK ((state = 'succeeded') = ("committedAt" IS NOT NULL));

-- While a migration holds room at its target, the VM counts there as well as where it runs.
CREATE FUNCTION berth_account_migration() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
BEGIN
  FOR change IN
    SELECT host, sum(vcpus) AS vcpus, sum(memory) AS memory FROM (
      SELECT OLD."toId" AS host, -OLD.vcpus AS vcpus, -OLD."memoryMiB" AS memory WHERE TG_OP <> 'INSERT' AND OLD.reserved
      UNION ALL SELECT NEW."toId", NEW.vcpus, NEW."memoryMiB" WHERE TG_OP <> 'DELETE' AND NEW.reserved
    ) AS part
    GROUP BY host HAVING sum(vcpus) <> 0 OR sum(memory) <> 0 ORDER BY host
  LOOP
    UPDATE "Host" SET "usedVcpus" = "usedVcpus" + change.vcpus, "usedMemoryMiB" = "usedMemoryMiB" + change.memory
    WHERE id = change.host;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER "Migration_account" AFTER INSERT OR DELETE OR UPDATE OF reserved, "toId", vcpus, "memoryMiB"
ON "Migration" FOR EACH ROW EXECUTE FUNCTION berth_account_migration();
