-- CreateEnum
CREATE TYPE "PortState" AS ENUM ('pending', 'active', 'removing');

-- AlterTable
ALTER TABLE "Owner" ADD COLUMN     "maxPorts" INTEGER;

-- CreateTable
CREATE TABLE "Edge" (
    "id" TEXT NOT NULL,
    "address" TEXT NOT NULL,
    "problem" TEXT,
    "turn" INTEGER NOT NULL DEFAULT 0,
    "seenAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Edge_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "EdgeSegment" (
    "edgeId" TEXT NOT NULL,
    "networkId" TEXT NOT NULL,
    "address" TEXT NOT NULL,

    CONSTRAINT "EdgeSegment_pkey" PRIMARY KEY ("edgeId","networkId")
);

-- CreateTable
CREATE TABLE "EdgeLease" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "edgeId" TEXT NOT NULL,
    "epoch" INTEGER NOT NULL,
    "until" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "EdgeLease_pkey" PRIMARY KEY ("row")
);

-- CreateTable
CREATE TABLE "PublishedPort" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "protocol" TEXT NOT NULL,
    "port" INTEGER NOT NULL,
    "publicAddress" TEXT NOT NULL,
    "publicPort" INTEGER NOT NULL,
    "allow" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "state" "PortState" NOT NULL DEFAULT 'pending',
    "address" TEXT,
    "publishedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "PublishedPort_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "Edge_address_key" ON "Edge"("address");

-- CreateIndex
CREATE UNIQUE INDEX "EdgeSegment_address_key" ON "EdgeSegment"("address");

-- CreateIndex
CREATE INDEX "EdgeSegment_networkId_idx" ON "EdgeSegment"("networkId");

-- CreateIndex
CREATE INDEX "PublishedPort_ownerId_createdAt_id_idx" ON "PublishedPort"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "PublishedPort_createdAt_id_idx" ON "PublishedPort"("createdAt", "id");

-- CreateIndex
CREATE INDEX "PublishedPort_address_idx" ON "PublishedPort"("address");

-- CreateIndex
CREATE UNIQUE INDEX "PublishedPort_publicAddress_protocol_publicPort_key" ON "PublishedPort"("publicAddress", "protocol", "publicPort");

-- CreateIndex
CREATE INDEX "PublishedPort_vmId_idx" ON "PublishedPort"("vmId");

-- AddForeignKey
ALTER TABLE "EdgeSegment" ADD CONSTRAINT "EdgeSegment_edgeId_fkey" FOREIGN KEY ("edgeId") REFERENCES "Edge"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "EdgeSegment" ADD CONSTRAINT "EdgeSegment_networkId_fkey" FOREIGN KEY ("networkId") REFERENCES "Network"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "EdgeLease" ADD CONSTRAINT "EdgeLease_edgeId_fkey" FOREIGN KEY ("edgeId") REFERENCES "Edge"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "PublishedPort" ADD CONSTRAINT "PublishedPort_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "PublishedPort" ADD CONSTRAINT "PublishedPort_vmId_fkey" FOREIGN KEY ("vmId") REFERENCES "Vm"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

ALTER TABLE "EdgeLease" ADD CONSTRAINT "EdgeLease_row" CHECK (row = 1 AND epoch > 0);
ALTER TABLE "PublishedPort"
  ADD CONSTRAINT "PublishedPort_numbers" CHECK (port BETWEEN 1 AND 65535 AND "publicPort" BETWEEN 1 AND 65535),
  ADD CONSTRAINT "PublishedPort_protocol" CHECK (protocol IN ('tcp', 'udp'));
ALTER TABLE "Owner" ADD CONSTRAINT "Owner_maxPorts" CHECK ("maxPorts" >= 0);

-- A port follows its VM, however that changes: it is withdrawn with the VM, and pending while edges have to learn another
-- address. One that no edge can have had ends at once.
CREATE FUNCTION berth_follow_vm() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  now_at text := CASE WHEN NEW.state = 'pending' THEN NULL ELSE NEW.address END;
BEGIN
  IF NEW.state IN ('removing', 'removed') THEN
    DELETE FROM "PublishedPort" WHERE "vmId" = NEW.id AND address IS NULL AND "publishedAt" IS NULL;
    UPDATE "PublishedPort" SET state = 'removing' WHERE "vmId" = NEW.id AND state <> 'removing';
  ELSE
    UPDATE "PublishedPort" SET state = 'pending', address = now_at
    WHERE "vmId" = NEW.id AND state <> 'removing' AND address IS DISTINCT FROM now_at;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER "Vm_ports" AFTER UPDATE OF state, address ON "Vm" FOR EACH ROW
WHEN (OLD.address IS DISTINCT FROM NEW.address OR (OLD.state IS DISTINCT FROM NEW.state
  AND (OLD.state = 'pending' OR NEW.state IN ('pending', 'removing', 'removed'))))
EXECUTE FUNCTION berth_follow_vm();

-- What is being withdrawn is not published again.
CREATE FUNCTION berth_keep_withdrawn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'Port % is being withdrawn', OLD.id USING ERRCODE = 'BE001';
END $$;
CREATE TRIGGER "PublishedPort_withdrawn" BEFORE UPDATE OF state ON "PublishedPort" FOR EACH ROW
WHEN (OLD.state = 'removing' AND NEW.state <> 'removing') EXECUTE FUNCTION berth_keep_withdrawn();
