-- AlterTable
ALTER TABLE "Measurement" ADD COLUMN     "recoveryS" DOUBLE PRECISION;

-- AlterTable
ALTER TABLE "VmLoad" ADD COLUMN     "busyCpus" DOUBLE PRECISION;


-- What follows is written by hand, as in the first migration.

ALTER TABLE "VmLoad" ADD CONSTRAINT "VmLoad_busy" CHECK ("busyCpus" >= 0);
ALTER TABLE "Measurement" ADD CONSTRAINT "Measurement_recovery" CHECK (
  "recoveryS" IS NULL OR ("recoveryS" >= 0 AND kind IN ('live', 'resume')));
