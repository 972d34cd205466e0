-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "usageAt" TIMESTAMPTZ(3);

-- What follows is written by hand: VMs that go on, by until when their usage was told.
CREATE INDEX "Vm_usage_idx" ON "Vm"(COALESCE("usageAt", "startedAt"))
WHERE "startedAt" IS NOT NULL AND state NOT IN ('removing', 'removed', 'stuck');
