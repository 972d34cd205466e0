-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "clockOff" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "clockOffsetMs" INTEGER;
