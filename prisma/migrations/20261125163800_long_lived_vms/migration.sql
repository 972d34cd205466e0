-- CreateEnum
CREATE TYPE "VmOperation" AS ENUM ('pause', 'resume', 'suspend', 'restore', 'reboot');

-- AlterTable
ALTER TABLE "Owner" ADD COLUMN     "maxVms" INTEGER;

-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "hostKey" TEXT,
ADD COLUMN     "operation" "VmOperation",
ADD COLUMN     "operationAt" TIMESTAMPTZ(3),
ADD COLUMN     "order" JSONB,
ADD COLUMN     "overtaken" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "placedAt" TIMESTAMPTZ(3),
ADD COLUMN     "refusal" JSONB,
ADD COLUMN     "removalRequestedAt" TIMESTAMPTZ(3),
ADD COLUMN     "workflowAt" TIMESTAMPTZ(3);


-- What follows is written by hand, as in the first migration.

-- A VM is of a task, or stands alone and has an order and a lease of its own.
ALTER TABLE "Vm"
  ADD CONSTRAINT "Vm_alone" CHECK ("order" IS NULL OR ("taskId" IS NULL AND "leaseId" IS NOT NULL)),
  ADD CONSTRAINT "Vm_operation" CHECK ((operation IS NULL) = ("operationAt" IS NULL));

-- No two of an owner's that are there have the same name: it is what they are found by.
CREATE UNIQUE INDEX "Vm_name_live" ON "Vm" ("ownerId", name) WHERE "order" IS NOT NULL AND state <> 'removed';
-- What waits for a host.
CREATE INDEX "Vm_waiting" ON "Vm" ("createdAt", id) WHERE "order" IS NOT NULL AND state IN ('pending', 'reserved');
