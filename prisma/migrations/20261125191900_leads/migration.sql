-- A lease's VMs: the ledger reads them each time that it plans.
CREATE INDEX "Vm_leaseId_idx" ON "Vm"("leaseId");

-- What follows is written by hand, as in the first migration.

-- VMs that came to life of late: whether those of a kind start from a template on a host.
CREATE INDEX "Vm_born" ON "Vm" ("placedAt" DESC) WHERE boot IS NOT NULL;
