-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "boot" TEXT,
ADD COLUMN     "bootWhy" TEXT,
ADD COLUMN     "template" BOOLEAN NOT NULL DEFAULT false;

-- What follows is written by hand: the constraints that the datamodel cannot express.

ALTER TABLE "Vm"
  ADD CONSTRAINT "Vm_boot" CHECK (boot IN ('warm', 'cold')),
  ADD CONSTRAINT "Vm_bootWhy" CHECK (("bootWhy" IS NOT NULL) = (boot IS NOT DISTINCT FROM 'cold')),
  -- A VM that becomes a template is nobody's: it runs no command, has no lease and no address.
  ADD CONSTRAINT "Vm_template" CHECK (NOT template OR ("taskId" IS NULL AND "leaseId" IS NULL AND address IS NULL AND mac IS NULL));

-- One at a time on a host.
CREATE UNIQUE INDEX "Vm_template_live" ON "Vm" ("hostId") WHERE template AND state NOT IN ('pending', 'removed');
