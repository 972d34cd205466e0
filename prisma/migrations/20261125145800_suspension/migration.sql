-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "asleep" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "resumedAt" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "VmStay" ADD COLUMN     "since" TIMESTAMPTZ(3);


-- What follows is written by hand, as in the first migration.

-- A suspended VM has its memory in a file: it takes neither processors nor memory, and goes on doing so on its way out or
-- while it is stuck or moves. So that its end needs no room anywhere, this is a fact of its own and no list of states.
CREATE FUNCTION berth_note_sleep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state = 'suspended' THEN
    NEW.asleep := true;
  ELSIF NEW.state NOT IN ('migrating', 'stuck', 'removing', 'removed') THEN
    NEW.asleep := false;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_sleep" BEFORE INSERT OR UPDATE OF state ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_note_sleep();

-- As before, less what a VM asleep doesn't take; the file with its memory lies on the disk of the host where it was
-- suspended, from the moment on that it may be written.
CREATE FUNCTION berth_taken(vm "Vm") RETURNS TABLE (host text, vcpus int, memory int, disk int) LANGUAGE sql IMMUTABLE AS $$
  SELECT vm."hostId", CASE WHEN vm.asleep THEN 0 ELSE vm.vcpus END, CASE WHEN vm.asleep THEN 0 ELSE vm."memoryMiB" END,
    CASE WHEN vm.asleep OR vm.state IN ('suspending', 'restoring') THEN vm."memoryMiB" ELSE 0 END
  WHERE vm.state NOT IN ('pending', 'removed')
  UNION ALL
  SELECT vm."homeId", 0, 0, vm."diskMiB" + vm."overlayMiB" WHERE vm.state NOT IN ('pending', 'removed')
$$;

CREATE OR REPLACE FUNCTION berth_account_vm() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
BEGIN
  FOR change IN
    SELECT host, sum(vcpus) AS vcpus, sum(memory) AS memory, sum(disk) AS disk FROM (
      SELECT t.host, -t.vcpus AS vcpus, -t.memory AS memory, -t.disk AS disk FROM berth_taken(OLD) t WHERE TG_OP <> 'INSERT'
      UNION ALL SELECT t.host, t.vcpus, t.memory, t.disk FROM berth_taken(NEW) t WHERE TG_OP <> 'DELETE'
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
DROP TRIGGER "Vm_account" ON "Vm";
CREATE TRIGGER "Vm_account"
AFTER INSERT OR DELETE OR UPDATE OF state, "hostId", "homeId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", asleep
ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_account_vm();
