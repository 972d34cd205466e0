-- AlterTable
ALTER TABLE "Drain" ADD COLUMN     "suspendInPlace" TEXT NOT NULL DEFAULT 'never';

-- CreateTable
CREATE TABLE "DrainSuspension" (
    "drainId" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "wasSuspended" BOOLEAN NOT NULL,
    "tries" INTEGER NOT NULL DEFAULT 1,
    "askedAt" TIMESTAMPTZ(3) NOT NULL,
    "releasedAt" TIMESTAMPTZ(3),

    CONSTRAINT "DrainSuspension_pkey" PRIMARY KEY ("drainId","vmId")
);

-- CreateIndex
CREATE INDEX "DrainSuspension_vmId_idx" ON "DrainSuspension"("vmId");

-- AddForeignKey
ALTER TABLE "DrainSuspension" ADD CONSTRAINT "DrainSuspension_drainId_fkey" FOREIGN KEY ("drainId") REFERENCES "Drain"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "DrainSuspension" ADD CONSTRAINT "DrainSuspension_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE CASCADE ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

ALTER TABLE "Drain"
  ADD CONSTRAINT "Drain_suspend_in_place" CHECK ("suspendInPlace" IN ('never', 'ifStuck')),
  -- What is suspended has its disks, and its memory, where it is.
  ADD CONSTRAINT "Drain_disks_or_suspended" CHECK (NOT "moveDisks" OR "suspendInPlace" = 'never');

ALTER TABLE "DrainSuspension" ADD CONSTRAINT "DrainSuspension_tries" CHECK (tries >= 1);

-- A VM is suspended in place for one drain at a time.
CREATE UNIQUE INDEX "DrainSuspension_one_of_a_vm" ON "DrainSuspension" ("vmId") WHERE "releasedAt" IS NULL;

-- A host that was emptied stays empty: what was suspended there for that runs again when the host is opened, not before.
-- Elsewhere, where it was moved to since, it may.
CREATE FUNCTION berth_check_in_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  drain text;
BEGIN
  SELECT d.id INTO drain FROM "DrainSuspension" s JOIN "Drain" d ON d.id = s."drainId"
  WHERE s."vmId" = NEW.id AND s."releasedAt" IS NULL AND d."hostId" = NEW."hostId";
  IF drain IS NOT NULL THEN
    RAISE EXCEPTION 'VM % is suspended in place for %: it is restored when host % is opened', NEW.id, drain, NEW."hostId"
      USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_in_place" BEFORE UPDATE OF state ON "Vm" FOR EACH ROW
WHEN (OLD.state = 'suspended' AND NEW.state = 'restoring') EXECUTE FUNCTION berth_check_in_place();
