-- CreateEnum
CREATE TYPE "AccountKind" AS ENUM ('owner', 'provider', 'site', 'hold', 'tax');

-- CreateEnum
CREATE TYPE "TransferKind" AS ENUM ('adjustment', 'hold', 'capture', 'release');

-- CreateTable
CREATE TABLE "Account" (
    "id" TEXT NOT NULL,
    "kind" "AccountKind" NOT NULL,
    "ownerId" TEXT,
    "holder" TEXT NOT NULL,
    "name" TEXT NOT NULL DEFAULT '',
    "currency" TEXT NOT NULL,
    "lowerLimit" BIGINT,
    "balance" BIGINT NOT NULL DEFAULT 0,
    "summedTo" BIGINT NOT NULL DEFAULT 0,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "closedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Account_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Transfer" (
    "id" TEXT NOT NULL,
    "kind" "TransferKind" NOT NULL,
    "reason" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "apiKeyId" TEXT,
    "idempotencyKey" TEXT NOT NULL,
    "postings" INTEGER NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Transfer_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Entry" (
    "transferId" TEXT NOT NULL,
    "accountId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "amount" BIGINT NOT NULL,
    "balance" BIGINT,
    "seq" BIGSERIAL NOT NULL,

    CONSTRAINT "Entry_pkey" PRIMARY KEY ("transferId","accountId")
);

-- CreateTable
CREATE TABLE "BooksProof" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "seconds" DOUBLE PRECISION NOT NULL,
    "accounts" INTEGER NOT NULL,
    "transfers" INTEGER NOT NULL,
    "entries" INTEGER NOT NULL,
    "problems" INTEGER NOT NULL,
    "found" JSONB NOT NULL,

    CONSTRAINT "BooksProof_pkey" PRIMARY KEY ("row")
);

-- CreateIndex
CREATE INDEX "Account_ownerId_createdAt_id_idx" ON "Account"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Account_createdAt_id_idx" ON "Account"("createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "Account_kind_holder_name_currency_key" ON "Account"("kind", "holder", "name", "currency");

-- CreateIndex
CREATE UNIQUE INDEX "Transfer_idempotencyKey_key" ON "Transfer"("idempotencyKey");

-- CreateIndex
CREATE INDEX "Transfer_subject_idx" ON "Transfer"("subject");

-- CreateIndex
CREATE UNIQUE INDEX "Entry_accountId_seq_key" ON "Entry"("accountId", "seq");

-- AddForeignKey
ALTER TABLE "Account" ADD CONSTRAINT "Account_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Entry" ADD CONSTRAINT "Entry_transferId_fkey" FOREIGN KEY ("transferId") REFERENCES "Transfer"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Entry" ADD CONSTRAINT "Entry_accountId_fkey" FOREIGN KEY ("accountId") REFERENCES "Account"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- What follows is written by hand: the constraints that the datamodel cannot express (docs/books.md).
-- SQLSTATEs: BE008, the account would be below its limit; BE009, an amount or a balance is out of bounds; BE010, there is no such
-- account; BE001, the account is closed; BE005, what no caller can ask for.

-- Bounds: an entry has at most 10^15 micro-units, a balance of an account with a limit at most 10^18, so that no sum of both
-- overflows a bigint. An account without a limit is the other side of many, and has no bound: its entries are summed as numerics.
ALTER TABLE "Account"
  ADD CONSTRAINT "Account_lower_limit" CHECK (balance >= "lowerLimit"),
  ADD CONSTRAINT "Account_bounds" CHECK (
    "lowerLimit" IS NULL OR (balance BETWEEN -1000000000000000000 AND 1000000000000000000)
    AND "lowerLimit" BETWEEN -1000000000000000000 AND 1000000000000000000),
  ADD CONSTRAINT "Account_currency" CHECK (currency ~ '^[A-Z]{3}$'),
  ADD CONSTRAINT "Account_holder" CHECK (
    CASE WHEN kind IN ('owner', 'hold') THEN "ownerId" IS NOT NULL AND holder = "ownerId"
         WHEN kind IN ('site', 'tax') THEN "ownerId" IS NULL AND holder = ''
         ELSE holder <> '' END),
  ADD CONSTRAINT "Account_hold" CHECK (kind <> 'hold' OR ("lowerLimit" IS NOT NULL AND "lowerLimit" = 0)),
  ADD CONSTRAINT "Account_closed" CHECK ("closedAt" IS NULL OR (balance = 0 AND "lowerLimit" IS NOT NULL));
ALTER TABLE "Transfer"
  ADD CONSTRAINT "Transfer_postings" CHECK (postings BETWEEN 2 AND 64),
  ADD CONSTRAINT "Transfer_idempotency_key" CHECK (length("idempotencyKey") BETWEEN 1 AND 400);
ALTER TABLE "Entry"
  ADD CONSTRAINT "Entry_amount" CHECK (amount <> 0 AND amount BETWEEN -1000000000000000 AND 1000000000000000);

-- The lock by which an account without a lower limit is summed, while nobody adds to it.
CREATE FUNCTION berth_account_lock(account text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT hashtextextended('berth account ' || account, 0)
$$;

-- Of an entry: its account's currency, its place in the order of the account's entries, and the balance after it. Entries of one
-- statement are inserted in the order of their accounts' ids, and each waits here for its account: so transfers wait for each
-- other and never in a circle. The place is taken under the lock, so that no entry appears before one that was seen.
CREATE FUNCTION berth_post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  account "Account";
BEGIN
  IF NEW.amount NOT BETWEEN -1000000000000000 AND 1000000000000000 THEN
    RAISE EXCEPTION 'An amount of % micro-units is above the limit of 10^15', NEW.amount USING ERRCODE = 'BE009';
  END IF;
  SELECT * INTO account FROM "Account" WHERE id = NEW."accountId";
  IF NOT FOUND THEN
    RAISE EXCEPTION 'There is no account %', NEW."accountId" USING ERRCODE = 'BE010';
  END IF;
  NEW.currency := account.currency;
  -- Whether an account has a limit never changes.
  IF account."lowerLimit" IS NULL THEN
    PERFORM pg_advisory_xact_lock_shared(berth_account_lock(account.id));
    NEW.balance := NULL;
    NEW.seq := nextval('"Entry_seq_seq"');
    RETURN NEW;
  END IF;
  SELECT * INTO account FROM "Account" WHERE id = NEW."accountId" FOR NO KEY UPDATE;
  IF account."closedAt" IS NOT NULL THEN
    RAISE EXCEPTION 'Account % is closed since %', account.id, account."closedAt" USING ERRCODE = 'BE001';
  END IF;
  NEW.balance := account.balance + NEW.amount;
  NEW.seq := nextval('"Entry_seq_seq"');
  IF NEW.balance < account."lowerLimit" THEN
    RAISE EXCEPTION 'Account % has % micro-units of %, and may not fall below %: % cannot be taken from it',
      account.id, account.balance, account.currency, account."lowerLimit", -NEW.amount USING ERRCODE = 'BE008';
  END IF;
  IF NEW.balance NOT BETWEEN -1000000000000000000 AND 1000000000000000000 THEN
    RAISE EXCEPTION 'Account % would have % micro-units; at most 10^18 can be kept', account.id, NEW.balance
      USING ERRCODE = 'BE009';
  END IF;
  UPDATE "Account" SET balance = NEW.balance, "summedTo" = NEW.seq WHERE id = account.id;
  RETURN NEW;
END $$;

CREATE TRIGGER "Entry_post" BEFORE INSERT ON "Entry" FOR EACH ROW EXECUTE FUNCTION berth_post_entry();

-- At the commit, of a transfer that is new or has a new entry: it has as many entries as it says, which sum to zero in each
-- currency. So no entry is added to a transfer of an earlier transaction either.
CREATE FUNCTION berth_check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  transfer text := CASE TG_TABLE_NAME WHEN 'Entry' THEN to_jsonb(NEW) ->> 'transferId' ELSE to_jsonb(NEW) ->> 'id' END;
  declared int;
  entries int;
  balanced boolean;
BEGIN
  SELECT postings INTO declared FROM "Transfer" WHERE id = transfer;
  SELECT sum(n), bool_and(total = 0) INTO entries, balanced
  FROM (SELECT count(*) AS n, sum(amount) AS total FROM "Entry" WHERE "transferId" = transfer GROUP BY currency) c;
  IF entries IS DISTINCT FROM declared OR NOT balanced THEN
    RAISE EXCEPTION 'Transfer % has % entries of %, balanced: %', transfer, COALESCE(entries, 0), declared, balanced
      USING ERRCODE = 'BE005';
  END IF;
  RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER "Transfer_balanced" AFTER INSERT ON "Transfer" DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION berth_check_transfer();
CREATE CONSTRAINT TRIGGER "Entry_balanced" AFTER INSERT ON "Entry" DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION berth_check_transfer();

-- At the commit: what a balance has grown by is the sum of the entries that it has come to include.
CREATE FUNCTION berth_check_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  was bigint := CASE TG_OP WHEN 'INSERT' THEN 0 ELSE OLD.balance END;
  was_to bigint := CASE TG_OP WHEN 'INSERT' THEN 0 ELSE OLD."summedTo" END;
BEGIN
  IF NEW."summedTo" < was_to OR NEW.balance - was <> (
    SELECT COALESCE(sum(amount), 0) FROM "Entry"
    WHERE "accountId" = NEW.id AND seq > was_to AND seq <= NEW."summedTo") THEN
    RAISE EXCEPTION 'The balance of account % was changed from % to %, and its entries say otherwise', NEW.id, was, NEW.balance
      USING ERRCODE = 'BE005';
  END IF;
  RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER "Account_balance" AFTER INSERT OR UPDATE OF balance, "summedTo" ON "Account"
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION berth_check_balance();

-- What an account is does not change; its limit may move, and neither come nor go. A closed one stays closed.
CREATE FUNCTION berth_keep_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.id, NEW.kind, NEW.holder, NEW.name, NEW.currency) IS DISTINCT FROM (OLD.id, OLD.kind, OLD.holder, OLD.name, OLD.currency)
    OR (NEW."lowerLimit" IS NULL) <> (OLD."lowerLimit" IS NULL)
    OR (OLD."closedAt" IS NOT NULL AND NEW."closedAt" IS DISTINCT FROM OLD."closedAt") THEN
    RAISE EXCEPTION 'Account % cannot become another one', OLD.id USING ERRCODE = 'BE005';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER "Account_keep" BEFORE UPDATE ON "Account" FOR EACH ROW EXECUTE FUNCTION berth_keep_account();

CREATE FUNCTION berth_keep_books() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The books are kept: a row of "%" can be neither changed nor deleted; post a transfer that corrects it',
    TG_TABLE_NAME USING ERRCODE = 'BE005';
END $$;

CREATE TRIGGER "Transfer_keep" BEFORE UPDATE OR DELETE ON "Transfer" FOR EACH ROW EXECUTE FUNCTION berth_keep_books();
CREATE TRIGGER "Entry_keep" BEFORE UPDATE OR DELETE ON "Entry" FOR EACH ROW EXECUTE FUNCTION berth_keep_books();

-- Tables without a row may be truncated: tests begin with none.
CREATE FUNCTION berth_keep_all_books() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM "Transfer") OR EXISTS (SELECT FROM "Entry") THEN
    RAISE EXCEPTION 'The books are kept: they cannot be truncated' USING ERRCODE = 'BE005';
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER "Transfer_keep_all" BEFORE TRUNCATE ON "Transfer" FOR EACH STATEMENT EXECUTE FUNCTION berth_keep_all_books();
CREATE TRIGGER "Entry_keep_all" BEFORE TRUNCATE ON "Entry" FOR EACH STATEMENT EXECUTE FUNCTION berth_keep_all_books();
