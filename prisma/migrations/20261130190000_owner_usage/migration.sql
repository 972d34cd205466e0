-- AlterEnum
ALTER TYPE "TransferKind" ADD VALUE 'usage';

-- AlterTable
ALTER TABLE "PublishedPort" ADD COLUMN     "meteredMs" BIGINT;

-- CreateTable
CREATE TABLE "OwnerMeter" (
    "ownerId" TEXT NOT NULL,
    "bytes" BIGINT NOT NULL DEFAULT 0,
    "byteMs" DECIMAL(40,0) NOT NULL DEFAULT 0,
    "atMs" BIGINT NOT NULL,
    "usageMs" BIGINT NOT NULL,

    CONSTRAINT "OwnerMeter_pkey" PRIMARY KEY ("ownerId")
);

-- CreateTable
CREATE TABLE "PortStay" (
    "id" BIGSERIAL NOT NULL,
    "ownerId" TEXT NOT NULL,
    "fromMs" BIGINT NOT NULL,
    "untilMs" BIGINT NOT NULL,

    CONSTRAINT "PortStay_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "OwnerCharge" (
    "ownerId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "service" TEXT NOT NULL,
    "dueParts" DECIMAL(40,0) NOT NULL DEFAULT 0,
    "charges" INTEGER NOT NULL DEFAULT 0,
    "unpaidSince" TIMESTAMPTZ(3),

    CONSTRAINT "OwnerCharge_pkey" PRIMARY KEY ("ownerId","currency","service")
);

-- CreateIndex
CREATE INDEX "PortStay_ownerId_idx" ON "PortStay"("ownerId");

-- CreateIndex
CREATE INDEX "OwnerMeter_usageMs_idx" ON "OwnerMeter"("usageMs");

-- AddForeignKey
ALTER TABLE "OwnerMeter" ADD CONSTRAINT "OwnerMeter_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "PortStay" ADD CONSTRAINT "PortStay_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "OwnerCharge" ADD CONSTRAINT "OwnerCharge_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE CASCADE ON UPDATE CASCADE;


-- What follows is written by hand: usage of owners, metered by the facts themselves (docs/usage.md).

-- The ledger's clock in whole milliseconds since 1970: of all intervals below.
CREATE FUNCTION berth_now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT floor(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
$$;

ALTER TABLE "OwnerMeter"
  ADD CONSTRAINT "OwnerMeter_bounds" CHECK (bytes >= 0 AND "byteMs" >= 0 AND "usageMs" <= "atMs");
ALTER TABLE "PortStay" ADD CONSTRAINT "PortStay_interval" CHECK ("fromMs" <= "untilMs");
ALTER TABLE "PublishedPort"
  ADD CONSTRAINT "PublishedPort_metered" CHECK ("meteredMs" IS NULL OR state = 'active');

CREATE FUNCTION berth_add_meter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO "OwnerMeter" ("ownerId", "atMs", "usageMs") SELECT NEW.id, ms, ms FROM berth_now_ms() AS ms;
  RETURN NULL;
END $$;
CREATE TRIGGER "Owner_meter" AFTER INSERT ON "Owner" FOR EACH ROW EXECUTE FUNCTION berth_add_meter();

-- Bytes × milliseconds grow with each change of the bytes by what there was until then. The row stays locked to the end of the
-- transaction, as the owner's own does for its quota: an update that has waited is computed anew, so that nothing counts twice. A clock
-- that was set back adds nothing until it is where it was.
CREATE FUNCTION berth_meter_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
  was jsonb := CASE TG_OP WHEN 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
  now_is jsonb := CASE TG_OP WHEN 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
BEGIN
  FOR change IN
    SELECT owner, sum(bytes) AS bytes FROM (
      SELECT was ->> 'ownerId' AS owner, -(was ->> 'sizeBytes')::bigint AS bytes WHERE TG_OP <> 'INSERT' AND COALESCE(was ->> 'state', 'ready') = 'ready'
      UNION ALL
      SELECT now_is ->> 'ownerId', (now_is ->> 'sizeBytes')::bigint WHERE TG_OP <> 'DELETE' AND COALESCE(now_is ->> 'state', 'ready') = 'ready'
    ) AS part
    GROUP BY owner HAVING sum(bytes) <> 0 ORDER BY owner
  LOOP
    UPDATE "OwnerMeter" SET "byteMs" = "byteMs" + bytes::numeric * (GREATEST(berth_now_ms(), "atMs") - "atMs"),
      "atMs" = GREATEST(berth_now_ms(), "atMs"), bytes = bytes + change.bytes WHERE "ownerId" = change.owner;
  END LOOP;
  RETURN NULL;
END $$;

-- After "File_account", by its name: the owner's row is locked before its meter's.
CREATE TRIGGER "File_meter" AFTER INSERT OR DELETE OR UPDATE OF "sizeBytes", "ownerId", state
ON "File" FOR EACH ROW EXECUTE FUNCTION berth_meter_bytes();
CREATE TRIGGER "StoredLog_meter" AFTER INSERT OR DELETE OR UPDATE OF "sizeBytes", "ownerId"
ON "StoredLog" FOR EACH ROW EXECUTE FUNCTION berth_meter_bytes();

-- A port counts while an edge leads to it. Its time since then, or since it was told last, is its row's; when it ends, it is one of
-- "PortStay" until it is told. Both change under the lock of the port's row: no moment counts twice, and none is left out.
CREATE FUNCTION berth_meter_port() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.state = 'active' THEN
    NEW."meteredMs" := berth_now_ms();
    RETURN NEW;
  END IF;
  IF OLD."meteredMs" IS NOT NULL THEN
    INSERT INTO "PortStay" ("ownerId", "fromMs", "untilMs")
    SELECT OLD."ownerId", OLD."meteredMs", GREATEST(berth_now_ms(), OLD."meteredMs");
  END IF;
  IF TG_OP = 'DELETE' THEN
    RETURN OLD;
  END IF;
  NEW."meteredMs" := NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER "PublishedPort_meter" BEFORE UPDATE OF state ON "PublishedPort" FOR EACH ROW
WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION berth_meter_port();
CREATE TRIGGER "PublishedPort_meter_end" BEFORE DELETE ON "PublishedPort" FOR EACH ROW EXECUTE FUNCTION berth_meter_port();

-- What is there counts from now on.
INSERT INTO "OwnerMeter" ("ownerId", bytes, "atMs", "usageMs")
SELECT o.id, COALESCE((SELECT sum(f."sizeBytes") FROM "File" f WHERE f."ownerId" = o.id AND f.state = 'ready'), 0)
  + COALESCE((SELECT sum(l."sizeBytes") FROM "StoredLog" l WHERE l."ownerId" = o.id), 0), ms, ms
FROM "Owner" o, berth_now_ms() AS ms;
UPDATE "PublishedPort" SET "meteredMs" = berth_now_ms() WHERE state = 'active';
