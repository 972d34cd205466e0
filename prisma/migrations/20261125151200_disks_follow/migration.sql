-- AlterTable
ALTER TABLE "Migration" ADD COLUMN "moveDisk" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN "diskMiB" INTEGER NOT NULL DEFAULT 0;


-- What follows is written by hand, as in the first migration.

-- A migration whose VM has arrived may still be under way: its disks follow it.
ALTER TABLE "Migration"
  DROP CONSTRAINT "Migration_committed",
  DROP CONSTRAINT "Migration_mode",
  ADD CONSTRAINT "Migration_committed" CHECK (
    (state <> 'succeeded' OR "committedAt" IS NOT NULL) AND (state <> 'rolledBack' OR "committedAt" IS NULL)
    AND (NOT reserved OR "committedAt" IS NULL)),
  ADD CONSTRAINT "Migration_mode" CHECK (mode IN ('live', 'cold')),
  -- Room for disks, and for memory that comes as a file, is held for as long as they may come: from the reservation to the end.
  ADD CONSTRAINT "Migration_disk" CHECK ("diskMiB" >= 0 AND ("diskMiB" = 0 OR ("toId" IS NOT NULL AND state IN ('running', 'stuck'))));

-- As before, and the room for disks that are to follow.
CREATE OR REPLACE FUNCTION berth_account_migration() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
BEGIN
  FOR change IN
    SELECT host, sum(vcpus) AS vcpus, sum(memory) AS memory, sum(disk) AS disk FROM (
      SELECT OLD."toId" AS host, -OLD.vcpus AS vcpus, -OLD."memoryMiB" AS memory, 0 AS disk WHERE TG_OP <> 'INSERT' AND OLD.reserved
      UNION ALL SELECT OLD."toId", 0, 0, -OLD."diskMiB" WHERE TG_OP <> 'INSERT'
      UNION ALL SELECT NEW."toId", NEW.vcpus, NEW."memoryMiB", 0 WHERE TG_OP <> 'DELETE' AND NEW.reserved
      UNION ALL SELECT NEW."toId", 0, 0, NEW."diskMiB" WHERE TG_OP <> 'DELETE'
    ) AS part
    GROUP BY host HAVING sum(vcpus) <> 0 OR sum(memory) <> 0 OR sum(disk) <> 0 ORDER BY host
  LOOP
    UPDATE "Host" SET "usedVcpus" = "usedVcpus" + change.vcpus, "usedMemoryMiB" = "usedMemoryMiB" + change.memory,
      "usedDiskMiB" = "usedDiskMiB" + change.disk
    WHERE id = change.host;
  END LOOP;
  RETURN NULL;
END $$;
DROP TRIGGER "Migration_account" ON "Migration";
CREATE TRIGGER "Migration_account" AFTER INSERT OR DELETE OR UPDATE OF reserved, "toId", vcpus, "memoryMiB", "diskMiB"
ON "Migration" FOR EACH ROW EXECUTE FUNCTION berth_account_migration();
