-- CreateEnum
CREATE TYPE "ReservationState" AS ENUM ('scheduled', 'vacating', 'active', 'ended', 'failed', 'cancelled');

-- CreateTable
CREATE TABLE "HostReservation" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "state" "ReservationState" NOT NULL,
    "startAt" TIMESTAMPTZ(3) NOT NULL,
    "endAt" TIMESTAMPTZ(3) NOT NULL,
    "purpose" TEXT NOT NULL,
    "bringBack" BOOLEAN NOT NULL,
    "problem" JSONB,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "workflowAt" TIMESTAMPTZ(3),
    "cancelRequestedAt" TIMESTAMPTZ(3),
    "finishedAt" TIMESTAMPTZ(3),

    CONSTRAINT "HostReservation_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "HostHold" (
    "reservationId" TEXT NOT NULL,
    "hostId" TEXT NOT NULL,
    "startAt" TIMESTAMPTZ(3) NOT NULL,
    "endAt" TIMESTAMPTZ(3) NOT NULL,
    "released" BOOLEAN NOT NULL DEFAULT false,
    "drainId" TEXT,

    CONSTRAINT "HostHold_pkey" PRIMARY KEY ("reservationId","hostId")
);

-- CreateIndex
CREATE INDEX "HostReservation_state_createdAt_idx" ON "HostReservation"("state", "createdAt");

-- CreateIndex
CREATE INDEX "HostReservation_createdAt_id_idx" ON "HostReservation"("createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "HostHold_drainId_key" ON "HostHold"("drainId");

-- CreateIndex
CREATE INDEX "HostHold_hostId_startAt_idx" ON "HostHold"("hostId", "startAt");

-- AddForeignKey
ALTER TABLE "HostHold" ADD CONSTRAINT "HostHold_reservationId_fkey" FOREIGN KEY ("reservationId") REFERENCES "HostReservation"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "HostHold" ADD CONSTRAINT "HostHold_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

CREATE TRIGGER "HostReservation_transition" BEFORE UPDATE ON "HostReservation" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition(
  'scheduled>vacating', 'scheduled>failed', 'scheduled>cancelled',
  'vacating>active', 'vacating>failed', 'vacating>cancelled',
  'active>ended', 'active>cancelled');

ALTER TABLE "HostReservation"
  ADD CONSTRAINT "HostReservation_lasts" CHECK ("endAt" > "startAt"),
  ADD CONSTRAINT "HostReservation_finished" CHECK ((state IN ('ended', 'failed', 'cancelled')) = ("finishedAt" IS NOT NULL));

-- Two reservations never hold one host at the same time. Whoever holds hosts has the placement lock, so that of two that
-- come at once the second sees the first.
CREATE FUNCTION berth_check_hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  other text;
BEGIN
  SELECT "reservationId" INTO other FROM "HostHold"
  WHERE "hostId" = NEW."hostId" AND "reservationId" <> NEW."reservationId" AND NOT released
    AND "startAt" < NEW."endAt" AND "endAt" > NEW."startAt";
  IF other IS NOT NULL THEN
    RAISE EXCEPTION 'Host % is held for % at that time', NEW."hostId", other USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "HostHold_alone" BEFORE INSERT OR UPDATE OF "hostId", "startAt", "endAt", released ON "HostHold" FOR EACH ROW
WHEN (NOT NEW.released) EXECUTE FUNCTION berth_check_hold();
