-- CreateTable
CREATE TABLE "Budget" (
    "ownerId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "monthlyMicros" BIGINT NOT NULL,
    "thresholds" INTEGER[],
    "month" TEXT NOT NULL,
    "spentMicros" BIGINT NOT NULL DEFAULT 0,
    "toldPercent" INTEGER NOT NULL DEFAULT 0,
    "alerts" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "Budget_pkey" PRIMARY KEY ("ownerId","currency")
);

-- AddForeignKey
ALTER TABLE "Budget" ADD CONSTRAINT "Budget_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- What follows is written by hand.
ALTER TABLE "Budget" ADD CONSTRAINT "Budget_bounds" CHECK ("monthlyMicros" > 0 AND cardinality(thresholds) BETWEEN 1 AND 10);
