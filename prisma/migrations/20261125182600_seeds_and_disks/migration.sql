-- AlterTable
ALTER TABLE "Image" ADD COLUMN     "cloudInit" BOOLEAN NOT NULL DEFAULT false;

-- AlterTable
ALTER TABLE "Vm" ADD COLUMN     "extraDisksMiB" INTEGER[] NOT NULL DEFAULT ARRAY[]::INTEGER[],
ADD COLUMN     "rootMiB" INTEGER;


-- What follows is written by hand, as in the first migration.

-- What overlayMiB counts is more than the root disk for some: a build's flat copy, swap, further disks. Of those that are
-- there it was the root disk's size.
UPDATE "Vm" SET "rootMiB" = "overlayMiB" WHERE "order" IS NOT NULL AND state <> 'removed';
ALTER TABLE "Vm"
  ADD CONSTRAINT "Vm_rootMiB" CHECK ("rootMiB" > 0),
  ADD CONSTRAINT "Vm_extraDisks" CHECK (0 < ALL ("extraDisksMiB"));
