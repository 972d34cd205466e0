-- AlterEnum
ALTER TYPE "VmState" ADD VALUE 'crashed' AFTER 'stopped';

-- CreateEnum
CREATE TYPE "PausedBy" AS ENUM ('owner', 'ioError', 'operator', 'guest');

-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "pausedBy" "PausedBy";


-- What follows is written by hand, as in the first migration.

DROP TRIGGER "Vm_transition" ON "Vm";
CREATE TRIGGER "Vm_transition" BEFORE UPDATE ON "Vm" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'pending>reserved', 'pending>removed',
  'reserved>pending', 'reserved>creating', 'reserved>removing', 'reserved>removed', 'reserved>stuck',
  'creating>running', 'creating>stopped', 'creating>crashed', 'creating>removing', 'creating>stuck',
  'running>paused', 'running>suspending', 'running>migrating', 'running>stopped', 'running>crashed', 'running>removing',
  'running>stuck',
  'paused>running', 'paused>stopped', 'paused>crashed', 'paused>removing', 'paused>stuck',
  'suspending>suspended', 'suspending>running', 'suspending>stopped', 'suspending>crashed', 'suspending>stuck',
  'suspending>removing',
  'suspended>restoring', 'suspended>migrating', 'suspended>removing', 'suspended>stuck',
  'restoring>running', 'restoring>suspended', 'restoring>stopped', 'restoring>crashed', 'restoring>stuck', 'restoring>removing',
  'migrating>running', 'migrating>suspended', 'migrating>paused', 'migrating>stopped', 'migrating>crashed', 'migrating>stuck',
  'migrating>removing',
  'stopped>creating', 'stopped>removing', 'stopped>stuck',
  'crashed>creating', 'crashed>removing', 'crashed>stuck',
  'stuck>running', 'stuck>paused', 'stuck>suspended', 'stuck>stopped', 'stuck>crashed', 'stuck>removing',
  'removing>removed', 'removing>stuck');

-- A paused VM says who has paused it, and no other one does. Until now only owners could.
UPDATE "Vm" SET "pausedBy" = 'owner' WHERE state = 'paused';
CREATE FUNCTION berth_note_pause() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state <> 'paused' THEN
    NEW."pausedBy" := NULL;
  ELSE
    NEW."pausedBy" := COALESCE(NEW."pausedBy", 'owner');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_pause" BEFORE INSERT OR UPDATE OF state, "pausedBy" ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_note_pause();
ALTER TABLE "Vm" ADD CONSTRAINT "Vm_paused_by" CHECK ((state = 'paused') = ("pausedBy" IS NOT NULL));
