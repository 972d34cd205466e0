-- CreateTable
CREATE TABLE "EntryMark" (
    "at" TIMESTAMPTZ(3) NOT NULL,
    "seq" BIGINT NOT NULL,

    CONSTRAINT "EntryMark_pkey" PRIMARY KEY ("at")
);

-- CreateIndex
CREATE INDEX "Account_ownerId_closedAt_idx" ON "Account"("ownerId", "closedAt");
