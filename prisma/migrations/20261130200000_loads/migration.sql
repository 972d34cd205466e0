-- Load of hosts and VMs over time (docs/load.md): a row for what a host has sent in one batch, or for an hour of it in less detail.

-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "heartbeatS" INTEGER;
ALTER TABLE "Host" ADD CONSTRAINT "Host_heartbeatS" CHECK ("heartbeatS" BETWEEN 1 AND 300);

-- CreateEnum
CREATE TYPE "LoadDetail" AS ENUM ('sample', 'minute', 'hour');

-- CreateTable
CREATE TABLE "LoadChunk" (
    "hostId" TEXT NOT NULL,
    "detail" "LoadDetail" NOT NULL,
    "id" TEXT NOT NULL,
    "fromAt" TIMESTAMPTZ(3) NOT NULL,
    "untilAt" TIMESTAMPTZ(3) NOT NULL,
    "processors" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "diskMiB" INTEGER NOT NULL,
    "host" TEXT NOT NULL,
    "vms" TEXT NOT NULL,
    "latest" TEXT NOT NULL DEFAULT '',

    CONSTRAINT "LoadChunk_pkey" PRIMARY KEY ("hostId","detail","id")
);

-- CreateIndex
CREATE INDEX "LoadChunk_hostId_detail_untilAt_idx" ON "LoadChunk"("hostId", "detail", "untilAt");

-- CreateIndex
CREATE INDEX "LoadChunk_detail_untilAt_idx" ON "LoadChunk"("detail", "untilAt");

-- AddForeignKey
ALTER TABLE "LoadChunk" ADD CONSTRAINT "LoadChunk_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- Rows come and go all the time: a tenth of them dead is enough to have it cleaned.
ALTER TABLE "LoadChunk" SET (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_insert_scale_factor = 0.5);

-- CreateTable
CREATE TABLE "Balancer" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "heartbeatS" INTEGER NOT NULL DEFAULT 10,

    CONSTRAINT "Balancer_pkey" PRIMARY KEY ("row")
);
ALTER TABLE "Balancer" ADD CONSTRAINT "Balancer_one" CHECK (row = 1);
ALTER TABLE "Balancer" ADD CONSTRAINT "Balancer_heartbeatS" CHECK ("heartbeatS" BETWEEN 1 AND 300);
INSERT INTO "Balancer" (row) VALUES (1);
