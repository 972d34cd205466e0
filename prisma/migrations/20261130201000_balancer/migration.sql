-- Decisions of the balancer, and the capacity that hosts offer for a move while one is being decided (docs/balancing.md).

-- CreateEnum
CREATE TYPE "BalancerMode" AS ENUM ('off', 'advise', 'auto');

-- CreateEnum
CREATE TYPE "BalanceState" AS ENUM ('open', 'moving', 'advised', 'stayed', 'ended');

-- AlterTable
ALTER TABLE "Balancer" ADD COLUMN     "mode" "BalancerMode" NOT NULL DEFAULT 'off';

-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "balance" BOOLEAN NOT NULL DEFAULT true;

-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "keep" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "pinned" BOOLEAN NOT NULL DEFAULT false;

-- CreateTable
CREATE TABLE "BalanceDecision" (
    "id" TEXT NOT NULL,
    "hostId" TEXT NOT NULL,
    "mode" "BalancerMode" NOT NULL,
    "state" "BalanceState" NOT NULL,
    "decision" JSONB NOT NULL,
    "starvedCpus" DOUBLE PRECISION,
    "problem" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "endedAt" TIMESTAMPTZ(3),

    CONSTRAINT "BalanceDecision_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "BalanceMove" (
    "decisionId" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "fromId" TEXT NOT NULL,
    "toId" TEXT NOT NULL,
    "migrationId" TEXT NOT NULL,
    "predictedCpus" DOUBLE PRECISION NOT NULL,
    "achievedCpus" DOUBLE PRECISION,
    "at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "BalanceMove_pkey" PRIMARY KEY ("decisionId","vmId")
);

-- CreateTable
CREATE TABLE "MoveHold" (
    "decisionId" TEXT NOT NULL,
    "vmId" TEXT NOT NULL,
    "hostId" TEXT NOT NULL,
    "migrationId" TEXT,
    "vcpus" INTEGER NOT NULL,
    "memoryMiB" INTEGER NOT NULL,
    "predictedCpus" DOUBLE PRECISION NOT NULL,
    "rank" INTEGER NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "MoveHold_pkey" PRIMARY KEY ("decisionId","vmId","hostId")
);

-- CreateIndex
CREATE INDEX "BalanceDecision_createdAt_id_idx" ON "BalanceDecision"("createdAt", "id");

-- CreateIndex
CREATE INDEX "BalanceDecision_hostId_createdAt_id_idx" ON "BalanceDecision"("hostId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "BalanceMove_vmId_at_idx" ON "BalanceMove"("vmId", "at");

-- CreateIndex
CREATE INDEX "BalanceMove_migrationId_idx" ON "BalanceMove"("migrationId");

-- CreateIndex
CREATE INDEX "MoveHold_migrationId_idx" ON "MoveHold"("migrationId");

-- CreateIndex
CREATE INDEX "MoveHold_expiresAt_idx" ON "MoveHold"("expiresAt");

-- AddForeignKey
ALTER TABLE "BalanceDecision" ADD CONSTRAINT "BalanceDecision_hostId_fkey" FOREIGN KEY ("hostId") REFERENCES "Host"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "BalanceMove" ADD CONSTRAINT "BalanceMove_decisionId_fkey" FOREIGN KEY ("decisionId") REFERENCES "BalanceDecision"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "MoveHold" ADD CONSTRAINT "MoveHold_decisionId_fkey" FOREIGN KEY ("decisionId") REFERENCES "BalanceDecision"("id") ON DELETE CASCADE ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

-- A hold counts on its host, like the VM that it is for: nothing else is placed there meanwhile.
CREATE FUNCTION berth_account_hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  hold "MoveHold" := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
  sign int := CASE WHEN TG_OP = 'INSERT' THEN 1 ELSE -1 END;
BEGIN
  UPDATE "Host" SET "usedVcpus" = "usedVcpus" + sign * hold.vcpus, "usedMemoryMiB" = "usedMemoryMiB" + sign * hold."memoryMiB"
  WHERE id = hold."hostId";
  RETURN NULL;
END $$;
CREATE TRIGGER "MoveHold_account" AFTER INSERT OR DELETE ON "MoveHold" FOR EACH ROW EXECUTE FUNCTION berth_account_hold();
ALTER TABLE "MoveHold" ADD CONSTRAINT "MoveHold_size" CHECK (vcpus >= 0 AND "memoryMiB" >= 0);

CREATE FUNCTION berth_keep_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The hold of VM % on host % is taken or released, and not changed', OLD."vmId", OLD."hostId" USING ERRCODE = 'BE001';
END $$;
CREATE TRIGGER "MoveHold_keep" BEFORE UPDATE ON "MoveHold" FOR EACH ROW
WHEN (NEW.vcpus <> OLD.vcpus OR NEW."memoryMiB" <> OLD."memoryMiB" OR NEW."hostId" <> OLD."hostId") EXECUTE FUNCTION berth_keep_hold();
