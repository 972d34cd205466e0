-- AlterTable
ALTER TABLE "File" ADD COLUMN "attempt" TEXT;
