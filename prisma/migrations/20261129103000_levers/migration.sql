-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "removedAt" TIMESTAMPTZ(3);

-- CreateTable
CREATE TABLE "Fence" (
    "vmId" TEXT NOT NULL,
    "hostId" TEXT NOT NULL,
    "generation" INTEGER NOT NULL,
    "vcpus" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "diskMiB" INTEGER NOT NULL,
    "address" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Fence_pkey" PRIMARY KEY ("vmId","hostId")
);

-- CreateTable
CREATE TABLE "WorkflowEnd" (
    "workflowId" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "WorkflowEnd_pkey" PRIMARY KEY ("workflowId")
);

-- CreateIndex
CREATE INDEX "Fence_hostId_idx" ON "Fence"("hostId");

-- CreateIndex
CREATE INDEX "Fence_address_idx" ON "Fence"("address");

-- AddForeignKey
ALTER TABLE "Fence" ADD CONSTRAINT "Fence_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Fence" ADD CONSTRAINT "Fence_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

ALTER TABLE "Fence" ADD CONSTRAINT "Fence_size" CHECK (vcpus >= 0 AND "memoryMiB" >= 0 AND "diskMiB" >= 0 AND generation >= 0);

-- A fence counts on its host. It takes over what its VM, or a migration of it, has given up in the same transaction, so it is
-- no growth: a host whose capacity has shrunk below its sum must not refuse it.
CREATE FUNCTION berth_account_fence() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  fence "Fence" := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
  sign int := CASE WHEN TG_OP = 'INSERT' THEN 1 ELSE -1 END;
BEGIN
  PERFORM set_config('berth.fencing', 'on', true);
  UPDATE "Host" SET "usedVcpus" = "usedVcpus" + sign * fence.vcpus, "usedMemoryMiB" = "usedMemoryMiB" + sign * fence."memoryMiB",
    "usedDiskMiB" = "usedDiskMiB" + sign * fence."diskMiB"
  WHERE id = fence."hostId";
  PERFORM set_config('berth.fencing', 'off', true);
  RETURN NULL;
END $$;
CREATE TRIGGER "Fence_account" AFTER INSERT OR DELETE ON "Fence" FOR EACH ROW EXECUTE FUNCTION berth_account_fence();

CREATE FUNCTION berth_keep_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The fence of VM % on host % is lifted or kept, and not changed', OLD."vmId", OLD."hostId" USING ERRCODE = 'BE001';
END $$;
CREATE TRIGGER "Fence_keep" BEFORE UPDATE ON "Fence" FOR EACH ROW EXECUTE FUNCTION berth_keep_fence();

CREATE OR REPLACE FUNCTION berth_check_capacity() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before "Host" := CASE WHEN TG_OP = 'UPDATE' THEN OLD END;
BEGIN
  IF current_setting('berth.fencing', true) = 'on' THEN
    RETURN NEW;
  END IF;
  IF (NEW."usedVcpus" > NEW.vcpus AND NEW."usedVcpus" > COALESCE(before."usedVcpus", 0))
     OR (NEW."usedMemoryMiB" > NEW."memoryMiB" AND NEW."usedMemoryMiB" > COALESCE(before."usedMemoryMiB", 0))
     OR (NEW."usedDiskMiB" > NEW."diskMiB" AND NEW."usedDiskMiB" > COALESCE(before."usedDiskMiB", 0)) THEN
    RAISE EXCEPTION 'Host % has % vCPUs, % MiB of memory and % MiB of disk; %, % and % would be taken', NEW.id,
      NEW.vcpus, NEW."memoryMiB", NEW."diskMiB", NEW."usedVcpus", NEW."usedMemoryMiB", NEW."usedDiskMiB"
      USING ERRCODE = 'BE002';
  END IF;
  RETURN NEW;
END $$;

-- An address that a fenced guest may still answer at is given to no other.
CREATE FUNCTION berth_check_fenced_address() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  fenced text := (SELECT min("vmId") FROM "Fence" WHERE address = NEW.address AND "vmId" <> NEW.id);
BEGIN
  IF fenced IS NOT NULL THEN
    RAISE EXCEPTION 'The address % is fenced: it is not certain that VM % has ended', NEW.address, fenced USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_fenced_address" BEFORE UPDATE OF address ON "Vm" FOR EACH ROW
WHEN (NEW.address IS DISTINCT FROM OLD.address) EXECUTE FUNCTION berth_check_fenced_address();

-- As before; a guest that may still run has its disk on the image.
CREATE OR REPLACE FUNCTION berth_check_retirement() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  used text := (SELECT min(id) FROM "Vm" v WHERE "imageId" = NEW.id
    AND (state <> 'removed' OR EXISTS (SELECT FROM "Fence" f WHERE f."vmId" = v.id)));
BEGIN
  IF used IS NOT NULL THEN
    RAISE EXCEPTION 'Image % is in use by VM %', NEW.name, used USING ERRCODE = 'BE006';
  END IF;
  RETURN NEW;
END $$;

-- Nothing is placed on a host that was removed, and nothing migrates to it: it has to register first.
CREATE FUNCTION berth_check_host_present() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  gone text := (SELECT min(id) FROM "Host" WHERE "removedAt" IS NOT NULL AND id IN (NEW."hostId", NEW."homeId"));
BEGIN
  IF gone IS NOT NULL THEN
    RAISE EXCEPTION 'Host % was removed; VM % cannot be there', gone, NEW.id USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_host_present" BEFORE INSERT OR UPDATE OF state, "hostId", "homeId" ON "Vm" FOR EACH ROW
WHEN (NEW.state NOT IN ('pending', 'removed')) EXECUTE FUNCTION berth_check_host_present();
