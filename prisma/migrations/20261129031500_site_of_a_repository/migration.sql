-- CreateTable
CREATE TABLE "Site" (
    "row" INTEGER NOT NULL DEFAULT 1,
    "id" TEXT NOT NULL,
    "mark" BIGINT NOT NULL DEFAULT 0,
    "database" TEXT,
    "hold" TEXT,
    "heldAt" TIMESTAMPTZ(3),
    "found" JSONB,
    "acceptedSite" TEXT,
    "acceptedMark" BIGINT NOT NULL DEFAULT 0,
    "acceptedOrphans" INTEGER NOT NULL DEFAULT 0,
    "sweptAt" TIMESTAMPTZ(3),
    "swept" JSONB,

    CONSTRAINT "Site_pkey" PRIMARY KEY ("row")
);

-- CreateTable
CREATE TABLE "FileRemoval" (
    "fileId" TEXT NOT NULL,
    "sha256" TEXT NOT NULL,
    "removedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "FileRemoval_pkey" PRIMARY KEY ("fileId","sha256")
);

-- CreateIndex
CREATE UNIQUE INDEX "Site_id_key" ON "Site"("id");

-- CreateIndex
CREATE INDEX "FileRemoval_removedAt_idx" ON "FileRemoval"("removedAt");


-- What follows is written by hand, as in the first migration.

ALTER TABLE "Site"
  ADD CONSTRAINT "Site_one" CHECK (row = 1),
  ADD CONSTRAINT "Site_hold" CHECK ((hold IS NULL) = ("heldAt" IS NULL));
-- A new ledger is a new site's: the repository of another one has another id.
INSERT INTO "Site" (id) VALUES (gen_random_uuid()::text);

-- Whatever deletes the row of a file, or gives it other bytes: the ledger says that the old ones are nobody's. Bytes that it
-- says nothing of may be those of a ledger that was lost.
CREATE FUNCTION berth_note_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO "FileRemoval" ("fileId", sha256) VALUES (OLD.id, OLD.sha256)
    ON CONFLICT ("fileId", sha256) DO UPDATE SET "removedAt" = CURRENT_TIMESTAMP;
  RETURN NULL;
END $$;
CREATE TRIGGER "File_removed" AFTER DELETE ON "File"
FOR EACH ROW WHEN (OLD.sha256 IS NOT NULL) EXECUTE FUNCTION berth_note_removal();
CREATE TRIGGER "File_replaced" AFTER UPDATE OF sha256 ON "File"
FOR EACH ROW WHEN (OLD.sha256 IS NOT NULL AND OLD.sha256 IS DISTINCT FROM NEW.sha256) EXECUTE FUNCTION berth_note_removal();
