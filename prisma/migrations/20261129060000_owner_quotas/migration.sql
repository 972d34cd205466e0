-- AlterTable
ALTER TABLE "ApiKey" ADD COLUMN     "expiresAt" TIMESTAMPTZ(3),
ADD COLUMN     "name" TEXT NOT NULL DEFAULT '';

-- AlterTable
ALTER TABLE "Owner" ADD COLUMN     "maxDiskMiB" INTEGER,
ADD COLUMN     "maxHorizonS" INTEGER,
ADD COLUMN     "maxMemoryMiB" INTEGER,
ADD COLUMN     "maxReservedVcpuHours" INTEGER,
ADD COLUMN     "maxTasks" INTEGER,
ADD COLUMN     "maxVcpus" INTEGER;

-- CreateIndex
CREATE INDEX "ApiKey_ownerId_createdAt_id_idx" ON "ApiKey"("ownerId", "createdAt", "id");

-- What follows is written by hand: the constraints that the datamodel cannot express.

ALTER TABLE "Owner" ADD CONSTRAINT "Owner_quotas" CHECK (
  "maxBytes" >= 0 AND "maxQueued" >= 0 AND "maxVms" >= 0 AND "maxVcpus" >= 0 AND "maxMemoryMiB" >= 0 AND "maxDiskMiB" >= 0
  AND "maxTasks" >= 0 AND "maxReservedVcpuHours" >= 0 AND "maxHorizonS" >= 0);
