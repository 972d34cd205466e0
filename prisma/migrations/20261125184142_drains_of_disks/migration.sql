-- AlterTable
ALTER TABLE "Drain" ADD COLUMN     "moveDisks" BOOLEAN NOT NULL DEFAULT false;

-- AlterTable
ALTER TABLE "Measurement" ADD COLUMN     "diskMiB" INTEGER;


-- What follows is written by hand, as in the first migration.

ALTER TABLE "Measurement"
  DROP CONSTRAINT "Measurement_kind",
  ADD CONSTRAINT "Measurement_kind" CHECK (kind IN ('live', 'suspend', 'copy', 'resume', 'disks')),
  ADD CONSTRAINT "Measurement_disks" CHECK ((kind = 'disks') = ("diskMiB" IS NOT NULL));
