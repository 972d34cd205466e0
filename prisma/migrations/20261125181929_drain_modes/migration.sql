-- AlterTable
ALTER TABLE "Drain" ADD COLUMN     "mode" TEXT NOT NULL DEFAULT 'auto';


-- What follows is written by hand, as in the first migration.

ALTER TABLE "Drain" ADD CONSTRAINT "Drain_mode" CHECK (mode IN ('auto', 'live', 'cold'));
