-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "allocations" INTEGER NOT NULL DEFAULT 0;


-- What follows is written by hand, as in the first migration.

-- A plan that was made outside of the placement lock names hosts. Whether something has begun to take capacity of one of them
-- since is one comparison of two numbers, however many VMs are there. What gives capacity back does not count: a plan that
-- fits a host fits one with more free capacity too.
CREATE FUNCTION berth_count_allocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.allocations := OLD.allocations + 1;
  RETURN NEW;
END $$;
CREATE TRIGGER "Host_allocations" BEFORE UPDATE OF "usedVcpus", "usedMemoryMiB", "usedDiskMiB" ON "Host" FOR EACH ROW
WHEN (NEW."usedVcpus" > OLD."usedVcpus" OR NEW."usedMemoryMiB" > OLD."usedMemoryMiB" OR NEW."usedDiskMiB" > OLD."usedDiskMiB")
EXECUTE FUNCTION berth_count_allocation();
