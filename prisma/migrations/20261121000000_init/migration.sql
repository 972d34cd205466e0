-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "public";

-- CreateEnum
CREATE TYPE "Role" AS ENUM ('client', 'operator');

-- CreateEnum
CREATE TYPE "HostState" AS ENUM ('up', 'unknown');

-- CreateEnum
CREATE TYPE "ImageState" AS ENUM ('building', 'ready', 'failed', 'retired');

-- CreateEnum
CREATE TYPE "FileState" AS ENUM ('uploading', 'ready');

-- CreateEnum
CREATE TYPE "VmState" AS ENUM ('pending', 'reserved', 'creating', 'running', 'paused', 'suspending', 'suspended', 'restoring', 'migrating', 'stopped', 'stuck', 'removing', 'removed');

-- CreateEnum
CREATE TYPE "LeaseKind" AS ENUM ('reservation', 'bestEffort');

-- CreateEnum
CREATE TYPE "TaskState" AS ENUM ('queued', 'stagingIn', 'starting', 'running', 'stagingOut', 'succeeded', 'failed', 'cancelled');

-- CreateTable
CREATE TABLE "Owner" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "maxBytes" BIGINT,
    "maxQueued" INTEGER,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "usedBytes" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "Owner_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "ApiKey" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "role" "Role" NOT NULL,
    "hash" TEXT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revokedAt" TIMESTAMPTZ(3),

    CONSTRAINT "ApiKey_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Idempotency" (
    "ownerId" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "method" TEXT NOT NULL,
    "path" TEXT NOT NULL,
    "fingerprint" TEXT NOT NULL,
    "status" INTEGER,
    "response" JSONB,
    "location" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Idempotency_pkey" PRIMARY KEY ("ownerId","key")
);

-- CreateTable
CREATE TABLE "Host" (
    "id" TEXT NOT NULL,
    "address" TEXT NOT NULL,
    "provider" TEXT NOT NULL,
    "state" "HostState" NOT NULL,
    "schedulable" BOOLEAN NOT NULL DEFAULT true,
    "acceptsMigrations" BOOLEAN NOT NULL DEFAULT true,
    "vcpus" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "diskMiB" INTEGER NOT NULL,
    "usedVcpus" INTEGER NOT NULL DEFAULT 0,
    "usedMemoryMiB" INTEGER NOT NULL DEFAULT 0,
    "usedDiskMiB" INTEGER NOT NULL DEFAULT 0,
    "cpuModel" TEXT NOT NULL,
    "accelerator" TEXT NOT NULL,
    "hypervisor" TEXT NOT NULL,
    "bootId" TEXT NOT NULL,
    "seenAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Host_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Image" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "digest" TEXT NOT NULL,
    "ownerId" TEXT,
    "state" "ImageState" NOT NULL,
    "recipe" JSONB NOT NULL,
    "virtualMiB" INTEGER NOT NULL,
    "cmdline" TEXT NOT NULL,
    "sizeBytes" BIGINT NOT NULL,
    "parts" JSONB NOT NULL,
    "error" JSONB,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Image_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "HostImage" (
    "hostId" TEXT NOT NULL,
    "imageId" TEXT NOT NULL,
    "usedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "HostImage_pkey" PRIMARY KEY ("hostId","imageId")
);

-- CreateTable
CREATE TABLE "File" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "state" "FileState" NOT NULL,
    "sizeBytes" BIGINT NOT NULL,
    "sha256" TEXT,
    "taskId" TEXT,
    "node" INTEGER,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "File_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Network" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "vni" INTEGER NOT NULL,
    "cidr" TEXT NOT NULL,
    "gateway" TEXT NOT NULL,

    CONSTRAINT "Network_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Vm" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "imageId" TEXT,
    "vcpus" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "diskMiB" INTEGER NOT NULL,
    "overlayMiB" INTEGER NOT NULL DEFAULT 0,
    "state" "VmState" NOT NULL,
    "hostId" TEXT,
    "homeId" TEXT,
    "generation" INTEGER NOT NULL DEFAULT 0,
    "address" TEXT,
    "mac" TEXT,
    "problem" JSONB,
    "taskId" TEXT,
    "node" INTEGER,
    "leaseId" TEXT,
    "startedAt" TIMESTAMPTZ(3),
    "endedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Vm_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Lease" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "kind" "LeaseKind" NOT NULL,
    "durationS" INTEGER NOT NULL,
    "startAt" TIMESTAMPTZ(3),
    "startedAt" TIMESTAMPTZ(3),
    "endedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Lease_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Task" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "spec" JSONB NOT NULL,
    "state" "TaskState" NOT NULL,
    "leaseId" TEXT NOT NULL,
    "refusal" JSONB,
    "overtaken" INTEGER NOT NULL DEFAULT 0,
    "exitCode" INTEGER,
    "error" JSONB,
    "outputs" JSONB NOT NULL DEFAULT '[]',
    "timeline" JSONB NOT NULL DEFAULT '[]',
    "cancelRequestedAt" TIMESTAMPTZ(3),
    "workflowAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "placedAt" TIMESTAMPTZ(3),
    "startedAt" TIMESTAMPTZ(3),
    "finishedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Task_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Event" (
    "seq" BIGSERIAL NOT NULL,
    "id" TEXT NOT NULL,
    "type" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "time" TIMESTAMPTZ(3) NOT NULL,
    "data" JSONB NOT NULL,

    CONSTRAINT "Event_pkey" PRIMARY KEY ("seq")
);

-- CreateIndex
CREATE UNIQUE INDEX "Owner_name_key" ON "Owner"("name");

-- CreateIndex
CREATE UNIQUE INDEX "ApiKey_hash_key" ON "ApiKey"("hash");

-- CreateIndex
CREATE INDEX "Idempotency_createdAt_idx" ON "Idempotency"("createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Host_address_key" ON "Host"("address");

-- CreateIndex
CREATE INDEX "Image_name_createdAt_idx" ON "Image"("name", "createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Image_name_digest_key" ON "Image"("name", "digest");

-- CreateIndex
CREATE INDEX "File_ownerId_createdAt_id_idx" ON "File"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "File_taskId_node_name_key" ON "File"("taskId", "node", "name");

-- CreateIndex
CREATE UNIQUE INDEX "Network_ownerId_key" ON "Network"("ownerId");

-- CreateIndex
CREATE UNIQUE INDEX "Network_vni_key" ON "Network"("vni");

-- CreateIndex
CREATE UNIQUE INDEX "Network_cidr_key" ON "Network"("cidr");

-- CreateIndex
CREATE INDEX "Vm_hostId_state_idx" ON "Vm"("hostId", "state");

-- CreateIndex
CREATE INDEX "Vm_ownerId_createdAt_id_idx" ON "Vm"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "Vm_taskId_node_key" ON "Vm"("taskId", "node");

-- CreateIndex
CREATE UNIQUE INDEX "Task_leaseId_key" ON "Task"("leaseId");

-- CreateIndex
CREATE INDEX "Task_ownerId_createdAt_id_idx" ON "Task"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_state_createdAt_idx" ON "Task"("state", "createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Event_id_key" ON "Event"("id");

-- CreateIndex
CREATE INDEX "Event_ownerId_seq_idx" ON "Event"("ownerId", "seq");

-- CreateIndex
CREATE INDEX "Event_type_seq_idx" ON "Event"("type", "seq");

-- AddForeignKey
ALTER TABLE "ApiKey" ADD CONSTRAINT "ApiKey_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Image" ADD CONSTRAINT "Image_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "HostImage" ADD CONSTRAINT "HostImage_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "HostImage" ADD CONSTRAINT "HostImage_imageId_fkey" FOREIGN KEY ("imageId") REFERENCES "Image"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "File" ADD CONSTRAINT "File_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Network" ADD CONSTRAINT "Network_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_imageId_fkey" FOREIGN KEY ("imageId") REFERENCES "Image"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_homeId_fkey" FOREIGN KEY ("homeId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_leaseId_fkey" FOREIGN KEY ("leaseId") REFERENCES "Lease"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Task" ADD CONSTRAINT "Task_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Task" ADD CONSTRAINT "Task_leaseId_fkey" FOREIGN KEY ("leaseId") REFERENCES "Lease"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand: the constraints that the datamodel cannot express. Errors that a caller may cause
-- carry an SQLSTATE of their own, which prisma/ledger-error.ts translates:
--   BE001 illegal transition · BE002 no capacity · BE003 quota exceeded · BE004 generation · BE005 events are facts
--
-- Advisory locks, all in the class 7305: 1 the order of events, 2 placement, 3 migrations. A transaction that takes
-- several takes placement first and the events' last, so that none waits for another in a circle.

-- States move along the tables of model/states.ts alone. The arguments are the legal moves.
CREATE FUNCTION berth_check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT (OLD.state || '>' || NEW.state) = ANY (TG_ARGV) THEN
    RAISE EXCEPTION '% % cannot go from % to %', TG_TABLE_NAME, OLD.id, OLD.state, NEW.state USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER "Task_transition" BEFORE UPDATE ON "Task" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'queued>stagingIn', 'queued>failed', 'queued>cancelled',
  'stagingIn>starting', 'stagingIn>queued', 'stagingIn>failed', 'stagingIn>cancelled',
  'starting>running', 'starting>queued', 'starting>failed', 'starting>cancelled',
  'running>stagingOut', 'running>failed', 'running>cancelled',
  'stagingOut>succeeded', 'stagingOut>failed', 'stagingOut>cancelled');

CREATE TRIGGER "Vm_transition" BEFORE UPDATE ON "Vm" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'pending>reserved', 'pending>removed',
  'reserved>pending', 'reserved>creating', 'reserved>removing', 'reserved>removed', 'reserved>stuck',
  'creating>running', 'creating>removing', 'creating>stuck',
  'running>paused', 'running>suspending', 'running>migrating', 'running>stopped', 'running>removing', 'running>stuck',
  'paused>running', 'paused>stopped', 'paused>removing', 'paused>stuck',
  'suspending>suspended', 'suspending>running', 'suspending>stuck', 'suspending>removing',
  'suspended>restoring', 'suspended>migrating', 'suspended>removing', 'suspended>stuck',
  'restoring>running', 'restoring>suspended', 'restoring>stuck', 'restoring>removing',
  'migrating>running', 'migrating>suspended', 'migrating>paused', 'migrating>stopped', 'migrating>stuck', 'migrating>removing',
  'stopped>creating', 'stopped>removing', 'stopped>stuck',
  'stuck>running', 'stuck>paused', 'stuck>suspended', 'stuck>stopped', 'stuck>removing',
  'removing>removed', 'removing>stuck');

CREATE TRIGGER "Host_transition" BEFORE UPDATE ON "Host" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition('up>unknown', 'unknown>up');

CREATE TRIGGER "Image_transition" BEFORE UPDATE ON "Image" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition('building>ready', 'building>failed', 'ready>retired', 'failed>building');

-- A VM takes resources in every state but these two; then it has a host and a home, and an address of its own.
ALTER TABLE "Vm"
  ADD CONSTRAINT "Vm_placed" CHECK (state IN ('pending', 'removed') OR ("hostId" IS NOT NULL AND "homeId" IS NOT NULL)),
  ADD CONSTRAINT "Vm_size" CHECK (vcpus > 0 AND "memoryMiB" > 0 AND "diskMiB" >= 0 AND "overlayMiB" >= 0),
  ADD CONSTRAINT "Vm_generation" CHECK (generation >= 0);
CREATE UNIQUE INDEX "Vm_address_live" ON "Vm" (address) WHERE state NOT IN ('pending', 'removed');
CREATE UNIQUE INDEX "Vm_mac_live" ON "Vm" (mac) WHERE state NOT IN ('pending', 'removed');

-- Each placement is a new generation, also one on the same host: a delayed step of the old one must be refused there.
CREATE FUNCTION berth_check_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.generation < OLD.generation THEN
    RAISE EXCEPTION 'The generation of VM % cannot fall from % to %', OLD.id, OLD.generation, NEW.generation
      USING ERRCODE = 'BE004';
  END IF;
  IF NEW.generation = OLD.generation
     AND (NEW."hostId" IS DISTINCT FROM OLD."hostId" OR (OLD.state = 'pending' AND NEW.state = 'reserved')) THEN
    RAISE EXCEPTION 'A new placement of VM % needs a generation above %', OLD.id, OLD.generation USING ERRCODE = 'BE004';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_generation_grows" BEFORE UPDATE ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_check_generation();

-- Host.used* is the sum over the VMs that take resources: processors and memory where they run, disk at their home.
-- The hosts are updated in the order of their ids, so that two such transactions never wait for each other.
CREATE FUNCTION berth_account_vm() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  took boolean := TG_OP <> 'INSERT' AND OLD.state NOT IN ('pending', 'removed');
  takes boolean := TG_OP <> 'DELETE' AND NEW.state NOT IN ('pending', 'removed');
  change record;
BEGIN
  FOR change IN
    SELECT host, sum(vcpus) AS vcpus, sum(memory) AS memory, sum(disk) AS disk FROM (
      SELECT OLD."hostId" AS host, -OLD.vcpus AS vcpus, -OLD."memoryMiB" AS memory, 0 AS disk WHERE took
      UNION ALL SELECT OLD."homeId", 0, 0, -(OLD."diskMiB" + OLD."overlayMiB") WHERE took
      UNION ALL SELECT NEW."hostId", NEW.vcpus, NEW."memoryMiB", 0 WHERE takes
      UNION ALL SELECT NEW."homeId", 0, 0, NEW."diskMiB" + NEW."overlayMiB" WHERE takes
    ) AS part
    GROUP BY host
    HAVING sum(vcpus) <> 0 OR sum(memory) <> 0 OR sum(disk) <> 0
    ORDER BY host
  LOOP
    UPDATE "Host" SET
      "usedVcpus" = "usedVcpus" + change.vcpus,
      "usedMemoryMiB" = "usedMemoryMiB" + change.memory,
      "usedDiskMiB" = "usedDiskMiB" + change.disk
    WHERE id = change.host;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER "Vm_account" AFTER INSERT OR DELETE OR UPDATE OF state, "hostId", "homeId", vcpus, "memoryMiB", "diskMiB", "overlayMiB"
ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_account_vm();

-- What is promised never grows beyond what there is. It may stand above it when the capacity itself shrank: the VMs
-- that are there keep what they have, and nothing is added until it fits again.
CREATE FUNCTION berth_check_capacity() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before "Host" := CASE WHEN TG_OP = 'UPDATE' THEN OLD END;
BEGIN
  IF (NEW."usedVcpus" > NEW.vcpus AND NEW."usedVcpus" > COALESCE(before."usedVcpus", 0))
     OR (NEW."usedMemoryMiB" > NEW."memoryMiB" AND NEW."usedMemoryMiB" > COALESCE(before."usedMemoryMiB", 0))
     OR (NEW."usedDiskMiB" > NEW."diskMiB" AND NEW."usedDiskMiB" > COALESCE(before."usedDiskMiB", 0)) THEN
    RAISE EXCEPTION 'Host % has % vCPUs, % MiB of memory and % MiB of disk; %, % and % would be taken', NEW.id,
      NEW.vcpus, NEW."memoryMiB", NEW."diskMiB", NEW."usedVcpus", NEW."usedMemoryMiB", NEW."usedDiskMiB"
      USING ERRCODE = 'BE002';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Host_capacity" BEFORE INSERT OR UPDATE ON "Host" FOR EACH ROW EXECUTE FUNCTION berth_check_capacity();
ALTER TABLE "Host"
  ADD CONSTRAINT "Host_size" CHECK (vcpus >= 0 AND "memoryMiB" >= 0 AND "diskMiB" >= 0),
  ADD CONSTRAINT "Host_used" CHECK ("usedVcpus" >= 0 AND "usedMemoryMiB" >= 0 AND "usedDiskMiB" >= 0);

-- Owner.usedBytes is the sum over the owner's files, also those still being received, and grows to the quota at most.
-- The owner's row stays locked to the end of the transaction: two uploads cannot both take the last byte.
CREATE FUNCTION berth_account_file() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
BEGIN
  FOR change IN
    SELECT owner, sum(bytes) AS bytes FROM (
      SELECT OLD."ownerId" AS owner, -OLD."sizeBytes" AS bytes WHERE TG_OP <> 'INSERT'
      UNION ALL SELECT NEW."ownerId", NEW."sizeBytes" WHERE TG_OP <> 'DELETE'
    ) AS part
    GROUP BY owner HAVING sum(bytes) <> 0 ORDER BY owner
  LOOP
    UPDATE "Owner" SET "usedBytes" = "usedBytes" + change.bytes WHERE id = change.owner;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER "File_account" AFTER INSERT OR DELETE OR UPDATE OF "sizeBytes", "ownerId"
ON "File" FOR EACH ROW EXECUTE FUNCTION berth_account_file();

CREATE FUNCTION berth_check_quota() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW."usedBytes" > OLD."usedBytes" AND NEW."usedBytes" > NEW."maxBytes" THEN
    RAISE EXCEPTION 'Owner % may keep % bytes; % would be kept', NEW.id, NEW."maxBytes", NEW."usedBytes"
      USING ERRCODE = 'BE003';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Owner_quota" BEFORE UPDATE OF "usedBytes" ON "Owner" FOR EACH ROW EXECUTE FUNCTION berth_check_quota();
ALTER TABLE "Owner" ADD CONSTRAINT "Owner_used" CHECK ("usedBytes" >= 0);
ALTER TABLE "File"
  ADD CONSTRAINT "File_size" CHECK ("sizeBytes" >= 0),
  ADD CONSTRAINT "File_digest" CHECK (state = 'uploading' OR sha256 IS NOT NULL);

ALTER TABLE "Lease"
  ADD CONSTRAINT "Lease_duration" CHECK ("durationS" > 0),
  ADD CONSTRAINT "Lease_start" CHECK (kind <> 'reservation' OR "startAt" IS NOT NULL);

-- No address belongs to two owners.
ALTER TABLE "Network" ADD CONSTRAINT "Network_disjoint" EXCLUDE USING gist ((cidr::inet) inet_ops WITH &&);

-- Events are numbered under a lock that is held until their transaction ends: whoever sees number n can see every
-- smaller one, so a cursor never passes an event that is yet to appear. One up at a time, so that a gap is a loss.
CREATE FUNCTION berth_number_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7305, 1);
  NEW.seq := (SELECT COALESCE(max(seq), 0) + 1 FROM "Event");
  RETURN NEW;
END $$;
CREATE TRIGGER "Event_number" BEFORE INSERT ON "Event" FOR EACH ROW EXECUTE FUNCTION berth_number_event();

CREATE FUNCTION berth_keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'Event % was published; it can be neither changed nor deleted', OLD.id USING ERRCODE = 'BE005';
END $$;
CREATE TRIGGER "Event_keep" BEFORE UPDATE OR DELETE ON "Event" FOR EACH ROW EXECUTE FUNCTION berth_keep_event();
