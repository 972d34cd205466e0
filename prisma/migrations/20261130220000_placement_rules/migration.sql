-- Labels of hosts, and where VMs may run (docs/placement.md).

-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "labels" JSONB NOT NULL DEFAULT '{}';

-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "groups" TEXT[] DEFAULT ARRAY[]::TEXT[],
ADD COLUMN     "rules" JSONB;


-- What follows is written by hand, as in the first migration.

-- Members of groups are few: each decision about one of them reads them all.
CREATE INDEX "Vm_grouped" ON "Vm" (state) WHERE groups <> '{}';
