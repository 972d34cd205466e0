-- CreateTable
CREATE TABLE "PriceBook" (
    "id" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "terms" JSONB NOT NULL,
    "validFrom" TIMESTAMPTZ(3) NOT NULL,
    "validUntil" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "PriceBook_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Quote" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "bookId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "order" JSONB NOT NULL,
    "terms" JSONB NOT NULL,
    "totalMicros" BIGINT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "Quote_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Bill" (
    "leaseId" TEXT NOT NULL,
    "subjectId" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "accountId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "quoteId" TEXT,
    "terms" JSONB NOT NULL,
    "totalMicros" BIGINT,
    "holdMicros" BIGINT NOT NULL,
    "chargedMicros" BIGINT NOT NULL DEFAULT 0,
    "uncollectedMicros" BIGINT NOT NULL DEFAULT 0,
    "paid" JSONB NOT NULL DEFAULT '{}',
    "charges" INTEGER NOT NULL DEFAULT 0,
    "chargedAt" TIMESTAMPTZ(3),
    "dueAt" TIMESTAMPTZ(3),
    "warnedAt" TIMESTAMPTZ(3),
    "suspendedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "endedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Bill_pkey" PRIMARY KEY ("leaseId")
);

-- CreateIndex
CREATE INDEX "PriceBook_createdAt_id_idx" ON "PriceBook"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Quote_expiresAt_idx" ON "Quote"("expiresAt");

-- CreateIndex
CREATE UNIQUE INDEX "Bill_quoteId_key" ON "Bill"("quoteId");

-- CreateIndex
CREATE INDEX "Bill_subjectId_idx" ON "Bill"("subjectId");

-- CreateIndex
CREATE INDEX "Bill_ownerId_createdAt_leaseId_idx" ON "Bill"("ownerId", "createdAt", "leaseId");

-- CreateIndex
CREATE INDEX "Bill_createdAt_leaseId_idx" ON "Bill"("createdAt", "leaseId");

-- AddForeignKey
ALTER TABLE "Quote" ADD CONSTRAINT "Quote_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Quote" ADD CONSTRAINT "Quote_bookId_fkey" FOREIGN KEY ("bookId") REFERENCES "PriceBook"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Bill" ADD CONSTRAINT "Bill_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Bill" ADD CONSTRAINT "Bill_accountId_fkey" FOREIGN KEY ("accountId") REFERENCES "Account"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Bill" ADD CONSTRAINT "Bill_quoteId_fkey" FOREIGN KEY ("quoteId") REFERENCES "Quote"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- What follows is written by hand.
ALTER TABLE "PriceBook"
  ADD CONSTRAINT "PriceBook_currency" CHECK (currency ~ '^[A-Z]{3}$');
-- A bill is never above its total, whatever is charged when.
ALTER TABLE "Bill"
  ADD CONSTRAINT "Bill_total" CHECK ("chargedMicros" <= "totalMicros"),
  ADD CONSTRAINT "Bill_amounts" CHECK ("chargedMicros" >= 0 AND "uncollectedMicros" BETWEEN 0 AND "chargedMicros" AND "holdMicros" >= 0);

-- Bills that are charged while their leases go on, by when.
CREATE INDEX "Bill_dueAt_idx" ON "Bill"("dueAt") WHERE "dueAt" IS NOT NULL;

-- Those that are not over, for metrics.
CREATE INDEX "Bill_open_idx" ON "Bill"(currency) WHERE "endedAt" IS NULL;

-- What a price book, a quote and a bill have promised does not change; a book can be ended, and a bill that has ended stays so.
CREATE FUNCTION berth_keep_prices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'A price that was promised is kept: a row of "%" cannot become another one', TG_TABLE_NAME USING ERRCODE = 'BE005';
END $$;

CREATE TRIGGER "PriceBook_keep" BEFORE UPDATE ON "PriceBook" FOR EACH ROW
WHEN ((OLD.id, OLD.currency, OLD.terms, OLD."validFrom") IS DISTINCT FROM (NEW.id, NEW.currency, NEW.terms, NEW."validFrom"))
EXECUTE FUNCTION berth_keep_prices();
CREATE TRIGGER "Quote_keep" BEFORE UPDATE ON "Quote" FOR EACH ROW EXECUTE FUNCTION berth_keep_prices();
CREATE TRIGGER "Bill_keep" BEFORE UPDATE ON "Bill" FOR EACH ROW
WHEN (OLD."endedAt" IS NOT NULL OR (OLD."leaseId", OLD."subjectId", OLD."ownerId", OLD."accountId", OLD.currency, OLD."quoteId", OLD.terms, OLD."totalMicros")
  IS DISTINCT FROM (NEW."leaseId", NEW."subjectId", NEW."ownerId", NEW."accountId", NEW.currency, NEW."quoteId", NEW.terms, NEW."totalMicros"))
EXECUTE FUNCTION berth_keep_prices();
