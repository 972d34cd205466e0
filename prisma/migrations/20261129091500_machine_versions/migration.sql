-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "machine" INTEGER NOT NULL DEFAULT 2;

-- What follows is written by hand, as in the first migration.

-- VMs of before have the devices of version 1.
UPDATE "Vm" SET machine = 1;

-- A domain keeps the devices that it began with, also in the file that its memory is saved to: only a VM that has neither may
-- get others.
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_machine" CHECK (machine >= 1);
CREATE FUNCTION berth_check_machine() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state NOT IN ('pending', 'reserved', 'stopped', 'crashed') THEN
    RAISE EXCEPTION 'VM % is %: it keeps the devices of version % until it boots again', OLD.id, OLD.state, OLD.machine
      USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_machine_kept" BEFORE UPDATE OF machine ON "Vm" FOR EACH ROW
WHEN (OLD.machine IS DISTINCT FROM NEW.machine) EXECUTE FUNCTION berth_check_machine();
