-- CreateIndex
CREATE INDEX "File_createdAt_id_idx" ON "File"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Image_createdAt_id_idx" ON "Image"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Migration_createdAt_id_idx" ON "Migration"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Migration_requestedBy_createdAt_idx" ON "Migration"("requestedBy", "createdAt");

-- CreateIndex
CREATE INDEX "Owner_createdAt_id_idx" ON "Owner"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_createdAt_id_idx" ON "Task"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Vm_createdAt_id_idx" ON "Vm"("createdAt", "id");

-- What follows is written by hand: indexes of what is under way, which stay small however much has ended
-- (test/ledger/history.test.ts).

-- Tasks that have not ended: of an owner, and for housekeeping.
CREATE INDEX "Task_open" ON "Task" (id) WHERE state NOT IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX "Task_open_of_owner" ON "Task" ("ownerId") INCLUDE (state) WHERE state NOT IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX "Task_to_cancel" ON "Task" ("cancelRequestedAt", id)
  WHERE "cancelRequestedAt" IS NOT NULL AND state NOT IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX "Task_unstarted" ON "Task" ("createdAt", id) WHERE state = 'queued' AND "workflowAt" IS NULL;

-- VMs that are there: of an owner with their addresses, of a lease, at their home, and those that just begin.
CREATE INDEX "Vm_of_owner" ON "Vm" ("ownerId") INCLUDE (address, state) WHERE state <> 'removed';
CREATE INDEX "Vm_live" ON "Vm" ("leaseId") WHERE state NOT IN ('pending', 'removed');
CREATE INDEX "Vm_home" ON "Vm" ("homeId") WHERE state NOT IN ('pending', 'removed');
CREATE INDEX "Vm_reserved" ON "Vm" ("leaseId") WHERE state = 'reserved';
CREATE INDEX "Vm_gang" ON "Vm" ("leaseId") WHERE node > 0 AND state NOT IN ('pending', 'removed');
CREATE INDEX "Vm_removing" ON "Vm" ("leaseId") WHERE "removalRequestedAt" IS NOT NULL AND state <> 'removed';
-- Whose workflow may have to be started or notified.
CREATE INDEX "Vm_to_notify" ON "Vm" ("createdAt", id) WHERE "order" IS NOT NULL AND state <> 'removed'
  AND ("workflowAt" IS NULL OR "operationAt" IS NOT NULL OR "removalRequestedAt" IS NOT NULL);

CREATE INDEX "Lease_waiting" ON "Lease" ("createdAt", id) WHERE "endedAt" IS NULL AND "startedAt" IS NULL;
CREATE INDEX "Lease_term" ON "Lease" ("ownerId") WHERE "startAt" IS NOT NULL AND "endedAt" IS NULL;
CREATE INDEX "Lease_placed" ON "Lease" (id) WHERE "startedAt" IS NOT NULL AND "runFrom" IS NULL AND "endedAt" IS NULL;

CREATE INDEX "Migration_arriving" ON "Migration" ("toId") WHERE reserved;
CREATE INDEX "File_uploading" ON "File" ("createdAt") WHERE state = 'uploading';
CREATE INDEX "Host_vacant" ON "Host" (id) WHERE "vacantUntil" IS NOT NULL;
