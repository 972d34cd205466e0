-- A hold says to the plan of leases when its host is to be vacant: the next one's time. From the moment at which a drain
-- has closed the host, being closed says more: the plan would suspend work there that is about to be moved.
CREATE FUNCTION berth_note_vacancy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE "Host" h SET "vacantFrom" = next."startAt", "vacantUntil" = next."endAt"
  FROM (SELECT COALESCE(NEW."hostId", OLD."hostId") AS id) held LEFT JOIN LATERAL (
    SELECT "startAt", "endAt" FROM "HostHold"
    WHERE "hostId" = held.id AND NOT released AND "drainId" IS NULL ORDER BY "startAt" LIMIT 1) next ON true
  WHERE h.id = held.id;
  RETURN NULL;
END $$;
CREATE TRIGGER "HostHold_vacancy" AFTER INSERT OR UPDATE OR DELETE ON "HostHold" FOR EACH ROW EXECUTE FUNCTION berth_note_vacancy();
