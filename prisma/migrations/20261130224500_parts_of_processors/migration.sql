-- A host whose guests are in a control group with a limit has a part of a processor (docs/load.md).

-- AlterTable
ALTER TABLE "LoadChunk" ALTER COLUMN "processors" SET DATA TYPE DOUBLE PRECISION;
