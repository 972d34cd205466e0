-- CreateTable
CREATE TABLE "StoredLog" (
    "holderId" TEXT NOT NULL,
    "node" INTEGER NOT NULL,
    "ownerId" TEXT NOT NULL,
    "sizeBytes" BIGINT NOT NULL,
    "cutBytes" BIGINT,

    CONSTRAINT "StoredLog_pkey" PRIMARY KEY ("holderId","node")
);

-- CreateIndex
CREATE INDEX "StoredLog_ownerId_idx" ON "StoredLog"("ownerId");

-- AddForeignKey
ALTER TABLE "StoredLog" ADD CONSTRAINT "StoredLog_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- Written by hand: as of files, the owner has the sum of their sizes.
ALTER TABLE "StoredLog" ADD CONSTRAINT "StoredLog_size" CHECK ("sizeBytes" >= 0 AND "cutBytes" >= 0);
CREATE TRIGGER "StoredLog_account" AFTER INSERT OR DELETE OR UPDATE OF "sizeBytes", "ownerId"
ON "StoredLog" FOR EACH ROW EXECUTE FUNCTION berth_account_file();
