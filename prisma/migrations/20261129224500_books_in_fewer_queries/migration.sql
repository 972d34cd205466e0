-- The same rules with fewer queries a transfer, and one function that posts: its plans are kept by each session, where a statement
-- of the driver is planned each time (docs/books.md has what both cost).

-- Posts transfers, given as JSON; returns the ids of those whose idempotency keys are new. Accounts are locked first, in the order
-- of their ids, then keys, in theirs: a transaction that waits for another's key has its accounts already.
CREATE FUNCTION berth_post_transfers(wanted jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM "Account" WHERE "lowerLimit" IS NOT NULL AND id IN (
    SELECT p ->> 'account' FROM jsonb_array_elements(wanted) w, jsonb_array_elements(w -> 'postings') p)
  ORDER BY id FOR NO KEY UPDATE;
  RETURN QUERY
  WITH posted AS (
    INSERT INTO "Transfer" (id, kind, reason, subject, "apiKeyId", "idempotencyKey", postings, "createdAt")
    SELECT w.id, w.kind, w.reason, w.subject, w."apiKeyId", w."idempotencyKey", jsonb_array_length(w.postings), w.at
    FROM jsonb_to_recordset(wanted) AS w(id text, kind "TransferKind", reason text, subject text, "apiKeyId" text,
      "idempotencyKey" text, at timestamptz, postings jsonb)
    ORDER BY w."idempotencyKey"
    ON CONFLICT ("idempotencyKey") DO NOTHING RETURNING "Transfer".id
  ), entered AS (
    INSERT INTO "Entry" ("transferId", "accountId", currency, amount)
    SELECT w.id, p.account, '', p.amount
    FROM jsonb_to_recordset(wanted) AS w(id text, n int, postings jsonb) JOIN posted ON posted.id = w.id,
      jsonb_to_recordset(w.postings) AS p(account text, amount bigint)
    ORDER BY p.account, w.n
  )
  SELECT posted.id FROM posted;
END $$;

CREATE OR REPLACE FUNCTION berth_post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  kept bigint;
  lower bigint;
  closed timestamptz;
BEGIN
  IF NEW.amount NOT BETWEEN -1000000000000000 AND 1000000000000000 THEN
    RAISE EXCEPTION 'An amount of % micro-units is above the limit of 10^15', NEW.amount USING ERRCODE = 'BE009';
  END IF;
  -- By this transaction, and under no savepoint: its own entries are counted at its commit.
  IF NOT EXISTS (SELECT FROM "Transfer" WHERE id = NEW."transferId" AND xmin = pg_current_xact_id()::xid) THEN
    RAISE EXCEPTION 'Transfer % is not of this transaction: nothing is added to it', NEW."transferId" USING ERRCODE = 'BE005';
  END IF;
  -- Whether an account has a limit never changes.
  SELECT balance, "lowerLimit", "closedAt", currency INTO kept, lower, closed, NEW.currency FROM "Account"
  WHERE id = NEW."accountId" AND "lowerLimit" IS NOT NULL FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    SELECT currency INTO NEW.currency FROM "Account" WHERE id = NEW."accountId";
    IF NOT FOUND THEN
      RAISE EXCEPTION 'There is no account %', NEW."accountId" USING ERRCODE = 'BE010';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(berth_account_lock(NEW."accountId"));
    NEW.balance := NULL;
    NEW.seq := nextval('"Entry_seq_seq"');
    RETURN NEW;
  END IF;
  IF closed IS NOT NULL THEN
    RAISE EXCEPTION 'Account % is closed since %', NEW."accountId", closed USING ERRCODE = 'BE001';
  END IF;
  NEW.balance := kept + NEW.amount;
  NEW.seq := nextval('"Entry_seq_seq"');
  IF NEW.balance < lower THEN
    RAISE EXCEPTION 'Account % has % micro-units of %, and may not fall below %: % cannot be taken from it',
      NEW."accountId", kept, NEW.currency, lower, -NEW.amount USING ERRCODE = 'BE008';
  END IF;
  IF NEW.balance NOT BETWEEN -1000000000000000000 AND 1000000000000000000 THEN
    RAISE EXCEPTION 'Account % would have % micro-units; at most 10^18 can be kept', NEW."accountId", NEW.balance
      USING ERRCODE = 'BE009';
  END IF;
  UPDATE "Account" SET balance = NEW.balance, "summedTo" = NEW.seq WHERE id = NEW."accountId";
  RETURN NEW;
END $$;

-- At the commit of a transfer: it has as many entries as it says, which sum to zero in each currency. No other transaction
-- can add to it, so its own commit is the only one to ask.
DROP TRIGGER "Entry_balanced" ON "Entry";

CREATE OR REPLACE FUNCTION berth_check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  entries int;
  balanced boolean;
BEGIN
  SELECT sum(n), bool_and(total = 0) INTO entries, balanced
  FROM (SELECT count(*) AS n, sum(amount) AS total FROM "Entry" WHERE "transferId" = NEW.id GROUP BY currency) c;
  IF entries IS DISTINCT FROM NEW.postings OR NOT balanced THEN
    RAISE EXCEPTION 'Transfer % has % entries of %, balanced: %', NEW.id, COALESCE(entries, 0), NEW.postings, balanced
      USING ERRCODE = 'BE005';
  END IF;
  RETURN NULL;
END $$;

-- Asked where something else than a balance changes.
DROP TRIGGER "Account_keep" ON "Account";
CREATE TRIGGER "Account_keep" BEFORE UPDATE ON "Account" FOR EACH ROW
WHEN ((OLD.id, OLD.kind, OLD.holder, OLD.name, OLD.currency, OLD."lowerLimit", OLD."closedAt")
  IS DISTINCT FROM (NEW.id, NEW.kind, NEW.holder, NEW.name, NEW.currency, NEW."lowerLimit", NEW."closedAt"))
EXECUTE FUNCTION berth_keep_account();

-- A balance changes with each entry: its new version finds room on the page of the old one, and no index changes.
ALTER TABLE "Account" SET (fillfactor = 50);
