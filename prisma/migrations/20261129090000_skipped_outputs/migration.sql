-- AlterTable
ALTER TABLE "Task" ADD COLUMN     "skippedOutputs" JSONB NOT NULL DEFAULT '[]',
ADD COLUMN     "skippedOutputsCount" INTEGER NOT NULL DEFAULT 0;
