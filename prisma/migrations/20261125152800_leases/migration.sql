-- AlterEnum
ALTER TYPE "LeaseKind" ADD VALUE 'immediate';

-- CreateEnum
CREATE TYPE "Suspension" AS ENUM ('suspending', 'suspended', 'resuming');

-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "slowness" DOUBLE PRECISION NOT NULL DEFAULT 1,
ADD COLUMN     "vacantFrom" TIMESTAMPTZ(3),
ADD COLUMN     "vacantUntil" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "Lease" ADD COLUMN     "bound" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "deadlineAt" TIMESTAMPTZ(3),
ADD COLUMN     "endAt" TIMESTAMPTZ(3),
ADD COLUMN     "leadMs" INTEGER,
ADD COLUMN     "leftS" DOUBLE PRECISION,
ADD COLUMN     "operation" JSONB,
ADD COLUMN     "plannedHosts" TEXT[] DEFAULT ARRAY[]::TEXT[],
ADD COLUMN     "preemptible" BOOLEAN NOT NULL DEFAULT true,
ADD COLUMN     "priority" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "runFrom" TIMESTAMPTZ(3),
ADD COLUMN     "suspension" "Suspension",
ADD COLUMN     "suspensions" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "tailMs" INTEGER;

-- What follows is written by hand, as in the first migration.

ALTER TABLE "Lease"
  ADD CONSTRAINT "Lease_promise" CHECK (("startAt" IS NULL) = ("endAt" IS NULL) AND "startAt" < "endAt"),
  ADD CONSTRAINT "Lease_operation" CHECK (COALESCE(suspension IN ('suspending', 'resuming'), false) = (operation IS NOT NULL)),
  ADD CONSTRAINT "Lease_placed_suspension" CHECK (suspension IS NULL OR "startedAt" IS NOT NULL),
  ADD CONSTRAINT "Lease_slices" CHECK ("leftS" > 0 AND suspensions >= 0 AND "leadMs" >= 0 AND "tailMs" >= 0);
ALTER TABLE "Host"
  ADD CONSTRAINT "Host_vacant" CHECK (("vacantFrom" IS NULL) = ("vacantUntil" IS NULL) AND "vacantFrom" < "vacantUntil"),
  ADD CONSTRAINT "Host_slowness" CHECK (slowness >= 1);

-- Whether there is anything to plan: promises that have not begun, and work that is suspended or on its way.
CREATE INDEX "Lease_promised" ON "Lease" ("startAt") WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL;
CREATE INDEX "Lease_suspension" ON "Lease" (id) WHERE suspension IS NOT NULL AND "endedAt" IS NULL;
-- What was measured last.
CREATE INDEX "Lease_measured" ON "Lease" ("startedAt" DESC) WHERE "leadMs" IS NOT NULL;
-- Leases that are not over.
CREATE INDEX "Lease_open" ON "Lease" ("createdAt", id) WHERE "endedAt" IS NULL;
