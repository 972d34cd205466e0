-- AlterTable
ALTER TABLE "Migration" ADD COLUMN "orCold" BOOLEAN NOT NULL DEFAULT false;
