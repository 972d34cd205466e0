-- Written by hand: the disks of a VM may follow it alone, later than the VM itself.
ALTER TABLE "Migration"
  DROP CONSTRAINT "Migration_mode",
  ADD CONSTRAINT "Migration_mode" CHECK (mode IN ('live', 'cold', 'disks')),
  -- They go where the VM is: neither processors nor memory are taken anywhere, and the target is known from the beginning.
  ADD CONSTRAINT "Migration_disks" CHECK (mode <> 'disks' OR (
    "moveDisk" AND NOT reserved AND "toId" IS NOT NULL AND vcpus = 0 AND "memoryMiB" = 0));
