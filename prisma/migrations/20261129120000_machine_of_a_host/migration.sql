-- AlterTable
ALTER TABLE "Host" ADD COLUMN     "machine" TEXT;
