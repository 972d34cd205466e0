-- DropForeignKey
ALTER TABLE "Entry" DROP CONSTRAINT "Entry_accountId_fkey";

-- What follows is written by hand. A foreign key locks the account of each entry for all that post to it at a time, which costs more than the
-- entry; berth_post_entry finds the account anyway, and none is ever deleted, nor changes its id (berth_keep_account).
CREATE TRIGGER "Account_keep_row" BEFORE DELETE ON "Account" FOR EACH ROW EXECUTE FUNCTION berth_keep_books();

-- A lease is charged in two statements: what it depends on is read under its locks by one function, and all that follows is written by
-- another (docs/books.md has what that saves). In between its usage is priced, by a computation that is not SQL's.

-- Locks the bill of a lease, and then its hold: nobody else changes that without the bill. Nothing, where there is no bill, or where it has
-- ended. Each query of this function sees what was committed while the one before it waited.
CREATE FUNCTION berth_lock_bill(lease text) RETURNS TABLE (
  "leaseId" text, "ownerId" text, "accountId" text, currency text, terms jsonb, "totalMicros" bigint, "holdMicros" bigint,
  "chargedMicros" bigint, "uncollectedMicros" bigint, paid jsonb, charges int, "dueAt" timestamptz, "warnedAt" timestamptz,
  "suspendedAt" timestamptz, promised boolean, "heldMicros" bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  bill "Bill";
  held bigint;
BEGIN
  SELECT b.* INTO bill FROM "Bill" b WHERE b."leaseId" = lease AND b."endedAt" IS NULL FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  SELECT a.balance INTO held FROM "Account" a
  WHERE a.kind = 'hold' AND a.holder = bill."ownerId" AND a.name = lease AND a.currency = bill.currency FOR NO KEY UPDATE;
  RETURN QUERY SELECT bill."leaseId", bill."ownerId", bill."accountId", bill.currency, bill.terms, bill."totalMicros", bill."holdMicros",
    bill."chargedMicros", bill."uncollectedMicros", bill.paid, bill.charges, bill."dueAt"::timestamptz, bill."warnedAt"::timestamptz,
    bill."suspendedAt"::timestamptz, EXISTS (SELECT FROM "Lease" l WHERE l.id = lease AND l."startAt" IS NOT NULL),
    COALESCE(held, 0);
END $$;

-- Posts transfers, given as JSON; returns the ids of those whose idempotency keys are new. Accounts are locked first, in the order
-- of their ids, then keys, in theirs: a transaction that waits for another's key has its accounts already. A posting names its account by
-- its id, or by its place in `places`, counted from 0. Accounts are found by an array of ids: of a join with elements of JSON PostgreSQL
-- believes that there are hundreds, and would read all accounts.
CREATE FUNCTION berth_post(wanted jsonb, places text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  accounts text[] := ARRAY(SELECT COALESCE(p ->> 'account', places[(p ->> 'place')::int + 1])
    FROM jsonb_array_elements(wanted) w, jsonb_array_elements(w -> 'postings') p);
  transfer jsonb;
  fresh text[] := '{}';
BEGIN
  PERFORM FROM "Account" WHERE id = ANY (accounts) AND "lowerLimit" IS NOT NULL ORDER BY id FOR NO KEY UPDATE;
  FOR transfer IN SELECT w FROM jsonb_array_elements(wanted) w ORDER BY w ->> 'idempotencyKey' LOOP
    INSERT INTO "Transfer" (id, kind, reason, subject, "apiKeyId", "idempotencyKey", postings, "createdAt")
    VALUES (transfer ->> 'id', (transfer ->> 'kind')::"TransferKind", transfer ->> 'reason', transfer ->> 'subject',
      transfer ->> 'apiKeyId', transfer ->> 'idempotencyKey', jsonb_array_length(transfer -> 'postings'),
      (transfer ->> 'at')::timestamptz)
    ON CONFLICT ("idempotencyKey") DO NOTHING;
    IF FOUND THEN
      fresh := fresh || (transfer ->> 'id');
    END IF;
  END LOOP;
  INSERT INTO "Entry" ("transferId", "accountId", currency, amount)
  SELECT w ->> 'id', COALESCE(p ->> 'account', places[(p ->> 'place')::int + 1]), '', (p ->> 'amount')::bigint
  FROM jsonb_array_elements(wanted) w, jsonb_array_elements(w -> 'postings') p
  WHERE w ->> 'id' = ANY (fresh) ORDER BY 2, (w ->> 'n')::int;
  RETURN QUERY SELECT unnest(fresh);
END $$;

CREATE OR REPLACE FUNCTION berth_post_transfers(wanted jsonb) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT berth_post(wanted, '{}')
$$;

-- Of an account with a limit, as most are, one statement has all: the lock, the balance and the place. Where it changes nothing, the account
-- has no limit, or something is wrong with the entry.
CREATE OR REPLACE FUNCTION berth_post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  account record;
BEGIN
  -- By this transaction, and under no savepoint: its own entries are counted at its commit.
  IF NOT EXISTS (SELECT FROM "Transfer" WHERE id = NEW."transferId" AND xmin = pg_current_xact_id()::xid) THEN
    RAISE EXCEPTION 'Transfer % is not of this transaction: nothing is added to it', NEW."transferId" USING ERRCODE = 'BE005';
  END IF;
  IF NEW.amount NOT BETWEEN -1000000000000000 AND 1000000000000000 THEN
    RAISE EXCEPTION 'An amount of % micro-units is above the limit of 10^15', NEW.amount USING ERRCODE = 'BE009';
  END IF;
  UPDATE "Account" SET balance = balance + NEW.amount, "summedTo" = nextval('"Entry_seq_seq"')
  WHERE id = NEW."accountId" AND "lowerLimit" IS NOT NULL AND "closedAt" IS NULL AND balance + NEW.amount >= "lowerLimit"
    AND balance + NEW.amount BETWEEN -1000000000000000000 AND 1000000000000000000
  RETURNING balance, "summedTo", currency INTO NEW.balance, NEW.seq, NEW.currency;
  IF FOUND THEN
    RETURN NEW;
  END IF;
  SELECT * INTO account FROM "Account" WHERE id = NEW."accountId";
  IF NOT FOUND THEN
    RAISE EXCEPTION 'There is no account %', NEW."accountId" USING ERRCODE = 'BE010';
  END IF;
  -- Whether an account has a limit never changes.
  IF account."lowerLimit" IS NULL THEN
    PERFORM pg_advisory_xact_lock_shared(berth_account_lock(NEW."accountId"));
    NEW.currency := account.currency;
    NEW.balance := NULL;
    NEW.seq := nextval('"Entry_seq_seq"');
    RETURN NEW;
  END IF;
  IF account."closedAt" IS NOT NULL THEN
    RAISE EXCEPTION 'Account % is closed since %', NEW."accountId", account."closedAt" USING ERRCODE = 'BE001';
  END IF;
  IF account.balance + NEW.amount < account."lowerLimit" THEN
    RAISE EXCEPTION 'Account % has % micro-units of %, and may not fall below %: % cannot be taken from it',
      NEW."accountId", account.balance, account.currency, account."lowerLimit", -NEW.amount USING ERRCODE = 'BE008';
  END IF;
  RAISE EXCEPTION 'Account % would have % micro-units; at most 10^18 can be kept', NEW."accountId", account.balance + NEW.amount
    USING ERRCODE = 'BE009';
END $$;

-- The ids of accounts, in the order in which they are wanted: {id, kind, ownerId, holder, name, currency, limit}. Those that are not there are
-- opened with the given ids, in the order of their names, so that nobody waits in a circle.
CREATE FUNCTION berth_open_accounts(wanted jsonb, at timestamptz) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  ids text[] := '{}';
  one jsonb;
  known text;
BEGIN
  FOR attempt IN 1..2 LOOP
    ids := '{}';
    FOR one IN SELECT w FROM jsonb_array_elements(wanted) w LOOP
      SELECT id INTO known FROM "Account" WHERE kind = (one ->> 'kind')::"AccountKind" AND holder = one ->> 'holder'
        AND name = one ->> 'name' AND currency = one ->> 'currency';
      ids := ids || known;
    END LOOP;
    EXIT WHEN array_position(ids, NULL) IS NULL;
    INSERT INTO "Account" (id, kind, "ownerId", holder, name, currency, "lowerLimit", "createdAt")
    SELECT r.id, r.kind, r."ownerId", r.holder, r.name, r.currency, r."limit", at
    FROM jsonb_to_recordset(wanted)
      AS r(id text, kind "AccountKind", "ownerId" text, holder text, name text, currency text, "limit" bigint)
    ORDER BY r.kind, r.name, r.holder ON CONFLICT DO NOTHING;
  END LOOP;
  RETURN ids;
END $$;

-- Adds to what an owner has spent in a month; no row, where there is no budget.
CREATE FUNCTION berth_note_spending(owner text, of_currency text, micros bigint, in_month text)
RETURNS TABLE ("spentMicros" bigint, "monthlyMicros" bigint, thresholds int[], "toldPercent" int, alerts int) LANGUAGE sql AS $$
  UPDATE "Budget" SET month = in_month, "spentMicros" = micros + CASE WHEN month = in_month THEN "spentMicros" ELSE 0 END,
    "toldPercent" = CASE WHEN month = in_month THEN "toldPercent" ELSE 0 END
  WHERE "ownerId" = owner AND currency = of_currency
  RETURNING "spentMicros", "monthlyMicros", thresholds, "toldPercent", alerts
$$;

-- Posts the transfers of a charge, some of whose postings name accounts by their places in `accounts`, counted from 0; then writes the bill
-- as it is after it, and what its owner has spent: {lease, owner, currency, charges, charged, uncollected, paid, at, ended, spent, month}.
-- The caller has locked the bill, whose number of charges is in the keys of the transfers: they are new. The first account is the hold;
-- it is closed where the lease has ended. Returns the owner's budget.
CREATE FUNCTION berth_charge_bill(bill jsonb, accounts jsonb, transfers jsonb)
RETURNS TABLE ("spentMicros" bigint, "monthlyMicros" bigint, thresholds int[], "toldPercent" int, alerts int) LANGUAGE plpgsql AS $$
DECLARE
  at timestamptz := (bill ->> 'at')::timestamptz;
  ended timestamptz := CASE WHEN (bill ->> 'ended')::boolean THEN at END;
  ids text[] := berth_open_accounts(accounts, at);
  posted int;
BEGIN
  SELECT count(*) INTO posted FROM berth_post(transfers, ids);
  IF posted <> jsonb_array_length(transfers) THEN
    RAISE EXCEPTION 'Charge % of lease % was posted before', bill ->> 'charges', bill ->> 'lease' USING ERRCODE = 'BE005';
  END IF;
  IF ended IS NOT NULL THEN
    UPDATE "Account" SET "closedAt" = ended WHERE id = ids[1];
  END IF;
  UPDATE "Bill" b SET "chargedMicros" = (bill ->> 'charged')::bigint, "uncollectedMicros" = (bill ->> 'uncollected')::bigint,
    paid = bill -> 'paid', charges = (bill ->> 'charges')::int, "chargedAt" = at, "endedAt" = ended,
    "dueAt" = CASE WHEN ended IS NULL THEN b."dueAt" END
  WHERE b."leaseId" = bill ->> 'lease';
  RETURN QUERY SELECT * FROM berth_note_spending(bill ->> 'owner', bill ->> 'currency', (bill ->> 'spent')::bigint, bill ->> 'month');
END $$;
