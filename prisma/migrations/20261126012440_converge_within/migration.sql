-- AlterTable
ALTER TABLE "Migration" ADD COLUMN "convergeWithinS" INTEGER NOT NULL DEFAULT 120;
