-- AlterTable
ALTER TABLE "Lease" ADD COLUMN     "market" JSONB;

-- CreateTable
CREATE TABLE "Provider" (
    "name" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Provider_pkey" PRIMARY KEY ("name")
);

-- CreateTable
CREATE TABLE "JoinToken" (
    "id" TEXT NOT NULL,
    "provider" TEXT NOT NULL,
    "hash" TEXT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "usedBy" TEXT,
    "usedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "JoinToken_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Offer" (
    "id" TEXT NOT NULL,
    "provider" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "rates" JSONB NOT NULL,
    "validFrom" TIMESTAMPTZ(3) NOT NULL,
    "validUntil" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Offer_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "Provider_createdAt_name_idx" ON "Provider"("createdAt", "name");

-- CreateIndex
CREATE UNIQUE INDEX "JoinToken_hash_key" ON "JoinToken"("hash");

-- CreateIndex
CREATE INDEX "JoinToken_provider_idx" ON "JoinToken"("provider");

-- CreateIndex
CREATE INDEX "Offer_createdAt_id_idx" ON "Offer"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Offer_provider_currency_validFrom_idx" ON "Offer"("provider", "currency", "validFrom");

-- AddForeignKey
ALTER TABLE "Provider" ADD CONSTRAINT "Provider_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "JoinToken" ADD CONSTRAINT "JoinToken_provider_fkey" FOREIGN KEY ("provider") REFERENCES "Provider"("name") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Offer" ADD CONSTRAINT "Offer_provider_fkey" FOREIGN KEY ("provider") REFERENCES "Provider"("name") ON DELETE RESTRICT ON UPDATE CASCADE;

-- What follows is written by hand (docs/market.md).

ALTER TABLE "Offer" ADD CONSTRAINT "Offer_currency" CHECK (currency ~ '^[A-Z]{3}$');

-- An offer is ended, and not changed: what was accepted by it keeps its prices in any case.
CREATE TRIGGER "Offer_keep" BEFORE UPDATE ON "Offer" FOR EACH ROW
WHEN ((OLD.id, OLD.provider, OLD.currency, OLD.rates, OLD."validFrom") IS DISTINCT FROM (NEW.id, NEW.provider, NEW.currency, NEW.rates, NEW."validFrom"))
EXECUTE FUNCTION berth_keep_prices();

-- The account of a provider that somebody owns is seen by its owner.
CREATE FUNCTION berth_own_provider_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW."ownerId" := (SELECT "ownerId" FROM "Provider" WHERE name = NEW.holder);
  RETURN NEW;
END $$;
CREATE TRIGGER "Account_provider" BEFORE INSERT ON "Account" FOR EACH ROW WHEN (NEW.kind = 'provider')
EXECUTE FUNCTION berth_own_provider_account();

-- The prices of a bill are kept, and those of another provider may come to them, before the last rule, which is for the rest: a VM that
-- moves to a better offer is billed there by that.
CREATE FUNCTION berth_extends_terms(before jsonb, after jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT before - 'rules' = after - 'rules'
    AND jsonb_array_length(after -> 'rules') = jsonb_array_length(before -> 'rules') + 1
    AND (after -> 'rules') - (jsonb_array_length(after -> 'rules') - 2) = before -> 'rules'
    AND after #> ARRAY['rules', (jsonb_array_length(after -> 'rules') - 2)::text, 'provider'] IS NOT NULL
    AND NOT EXISTS (SELECT FROM jsonb_array_elements(before -> 'rules') r
      WHERE r -> 'provider' = after #> ARRAY['rules', (jsonb_array_length(after -> 'rules') - 2)::text, 'provider'])
$$;

DROP TRIGGER "Bill_keep" ON "Bill";
CREATE TRIGGER "Bill_keep" BEFORE UPDATE ON "Bill" FOR EACH ROW
WHEN (OLD."endedAt" IS NOT NULL OR (OLD."leaseId", OLD."subjectId", OLD."ownerId", OLD."accountId", OLD.currency, OLD."quoteId", OLD."totalMicros")
  IS DISTINCT FROM (NEW."leaseId", NEW."subjectId", NEW."ownerId", NEW."accountId", NEW.currency, NEW."quoteId", NEW."totalMicros")
  OR (OLD.terms IS DISTINCT FROM NEW.terms AND NOT berth_extends_terms(OLD.terms, NEW.terms)))
EXECUTE FUNCTION berth_keep_prices();
