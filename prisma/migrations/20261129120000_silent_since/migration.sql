-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "silentSince" TIMESTAMPTZ(3);

-- What follows is written by hand, as in the first migration.

-- Only a guest that runs can be silent.
CREATE FUNCTION berth_note_silence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state <> 'running' THEN
    NEW."silentSince" := NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_silence" BEFORE UPDATE OF state, "silentSince" ON "Vm" FOR EACH ROW EXECUTE FUNCTION berth_note_silence();
