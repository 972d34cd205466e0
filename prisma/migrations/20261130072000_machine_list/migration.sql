-- CreateTable
CREATE TABLE "MachineList" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "version" TEXT NOT NULL,
    "addresses" TEXT NOT NULL,

    CONSTRAINT "MachineList_pkey" PRIMARY KEY ("row")
);

-- What follows is written by hand. Each host asks for the list every ten seconds, and is told its version where it has it: made
-- anew each time, that is the square of the hosts.
ALTER TABLE "MachineList" ADD CONSTRAINT "MachineList_one" CHECK (row = 1);
INSERT INTO "MachineList" (version, addresses) VALUES ('', '');

CREATE FUNCTION berth_list_machines() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- Then what others have committed meanwhile is seen by the next statement.
  PERFORM FROM "MachineList" FOR UPDATE;
  UPDATE "MachineList" l SET version = md5(m.addresses), addresses = m.addresses
  FROM (SELECT COALESCE(string_agg(address, ' ' ORDER BY id), '') AS addresses
    FROM (SELECT id, address FROM "Host" UNION ALL SELECT id, address FROM "Edge") a) m;
END $$;

CREATE FUNCTION berth_machines_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM berth_list_machines();
  RETURN NULL;
END $$;

CREATE TRIGGER "Host_listed" AFTER INSERT OR DELETE ON "Host" FOR EACH ROW EXECUTE FUNCTION berth_machines_changed();
CREATE TRIGGER "Host_moved" AFTER UPDATE OF address ON "Host" FOR EACH ROW
  WHEN (OLD.address IS DISTINCT FROM NEW.address) EXECUTE FUNCTION berth_machines_changed();
CREATE TRIGGER "Host_emptied" AFTER TRUNCATE ON "Host" FOR EACH STATEMENT EXECUTE FUNCTION berth_machines_changed();
CREATE TRIGGER "Edge_listed" AFTER INSERT OR DELETE ON "Edge" FOR EACH ROW EXECUTE FUNCTION berth_machines_changed();
CREATE TRIGGER "Edge_moved" AFTER UPDATE OF address ON "Edge" FOR EACH ROW
  WHEN (OLD.address IS DISTINCT FROM NEW.address) EXECUTE FUNCTION berth_machines_changed();
CREATE TRIGGER "Edge_emptied" AFTER TRUNCATE ON "Edge" FOR EACH STATEMENT EXECUTE FUNCTION berth_machines_changed();
SELECT berth_list_machines();
