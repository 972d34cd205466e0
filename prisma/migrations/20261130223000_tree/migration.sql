-- An owner's tree of paths, its trash, and rules of expiry (docs/data.md, decision 118).

-- CreateEnum
CREATE TYPE "DeletionReason" AS ENUM ('deleted', 'replaced', 'expired');

-- AlterTable
ALTER TABLE "File" ADD COLUMN     "ofTree" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "unnamedAt" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "Owner" ADD COLUMN     "maxEntries" INTEGER,
ADD COLUMN     "usedEntries" INTEGER NOT NULL DEFAULT 0;

-- CreateTable
CREATE TABLE "TreeEntry" (
    "ownerId" TEXT NOT NULL,
    "path" TEXT COLLATE "C" NOT NULL,
    "parent" TEXT COLLATE "C",
    "fileId" TEXT,
    "metadata" JSONB NOT NULL DEFAULT '{}',
    "expiresAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "modifiedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "TreeEntry_pkey" PRIMARY KEY ("ownerId","path")
);

-- CreateTable
CREATE TABLE "Deletion" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "path" TEXT COLLATE "C" NOT NULL,
    "reason" "DeletionReason" NOT NULL,
    "rows" INTEGER NOT NULL,
    "purgeAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Deletion_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "TrashEntry" (
    "deletionId" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "path" TEXT COLLATE "C" NOT NULL,
    "fileId" TEXT,
    "metadata" JSONB NOT NULL,
    "expiresAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL,
    "modifiedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "TrashEntry_pkey" PRIMARY KEY ("deletionId","path")
);

-- CreateTable
CREATE TABLE "ExpiryRule" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "prefix" TEXT COLLATE "C" NOT NULL,
    "afterS" INTEGER NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "ExpiryRule_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "TreeEntry_ownerId_parent_path_idx" ON "TreeEntry"("ownerId", "parent", "path");

-- CreateIndex
CREATE INDEX "TreeEntry_fileId_idx" ON "TreeEntry"("fileId");

-- CreateIndex
CREATE INDEX "TreeEntry_ownerId_modifiedAt_idx" ON "TreeEntry"("ownerId", "modifiedAt");

-- CreateIndex
CREATE INDEX "Deletion_ownerId_createdAt_id_idx" ON "Deletion"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Deletion_purgeAt_idx" ON "Deletion"("purgeAt");

-- CreateIndex
CREATE INDEX "TrashEntry_fileId_idx" ON "TrashEntry"("fileId");

-- CreateIndex
CREATE INDEX "ExpiryRule_ownerId_createdAt_id_idx" ON "ExpiryRule"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "ExpiryRule_ownerId_prefix_key" ON "ExpiryRule"("ownerId", "prefix");

-- AddForeignKey
ALTER TABLE "TreeEntry" ADD CONSTRAINT "TreeEntry_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "TreeEntry" ADD CONSTRAINT "TreeEntry_ownerId_parent_fkey" FOREIGN KEY ("ownerId", "parent") REFERENCES "TreeEntry"("ownerId", "path") ON DELETE NO ACTION ON UPDATE NO ACTION;

-- AddForeignKey
ALTER TABLE "TreeEntry" ADD CONSTRAINT "TreeEntry_fileId_fkey" FOREIGN KEY ("fileId") REFERENCES "File"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Deletion" ADD CONSTRAINT "Deletion_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "TrashEntry" ADD CONSTRAINT "TrashEntry_deletionId_fkey" FOREIGN KEY ("deletionId") REFERENCES "Deletion"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "TrashEntry" ADD CONSTRAINT "TrashEntry_fileId_fkey" FOREIGN KEY ("fileId") REFERENCES "File"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "ExpiryRule" ADD CONSTRAINT "ExpiryRule_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration.

-- A path is that of its folder and one name more.
ALTER TABLE "TreeEntry"
  ADD CONSTRAINT "TreeEntry_parent" CHECK (CASE WHEN parent IS NULL THEN strpos(path, '/') = 0
    ELSE starts_with(path, parent || '/') AND strpos(substr(path, length(parent) + 2), '/') = 0 END),
  ADD CONSTRAINT "TreeEntry_path" CHECK (octet_length(path) BETWEEN 1 AND 2048);
ALTER TABLE "ExpiryRule" ADD CONSTRAINT "ExpiryRule_after" CHECK ("afterS" > 0);
ALTER TABLE "Owner" ADD CONSTRAINT "Owner_entries" CHECK ("usedEntries" >= 0);

-- Nothing lies in a file: what has become a folder stays one, and the other way round.
CREATE FUNCTION berth_check_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (OLD."fileId" IS NULL) <> (NEW."fileId" IS NULL) THEN
    RAISE EXCEPTION 'The path % would become another kind of entry', NEW.path USING ERRCODE = 'BE001';
  END IF;
  IF NEW.parent IS NOT NULL AND EXISTS (SELECT FROM "TreeEntry"
      WHERE "ownerId" = NEW."ownerId" AND path = NEW.parent AND "fileId" IS NOT NULL) THEN
    RAISE EXCEPTION 'The path % is that of a file; nothing can lie in it', NEW.parent USING ERRCODE = 'BE001';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER "TreeEntry_kind" AFTER INSERT OR UPDATE OF path, parent, "fileId" ON "TreeEntry"
FOR EACH ROW EXECUTE FUNCTION berth_check_entry();

-- A file belongs to the owner of the path that names it.
CREATE FUNCTION berth_check_entry_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM "File" WHERE id = NEW."fileId" AND "ownerId" = NEW."ownerId" AND state = 'ready') THEN
    RAISE EXCEPTION 'There is no file % of this owner', NEW."fileId" USING ERRCODE = 'BE010';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER "TreeEntry_owner" AFTER INSERT OR UPDATE OF "fileId", "ownerId" ON "TreeEntry"
FOR EACH ROW WHEN (NEW."fileId" IS NOT NULL) EXECUTE FUNCTION berth_check_entry_owner();

-- Owner."usedEntries": once a statement, because a statement may move 100,000 rows.
CREATE FUNCTION berth_count_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  change record;
BEGIN
  FOR change IN
    SELECT "ownerId" AS owner, count(*)::int AS entries FROM changed GROUP BY "ownerId" ORDER BY "ownerId"
  LOOP
    UPDATE "Owner" SET "usedEntries" = "usedEntries" + CASE TG_OP WHEN 'INSERT' THEN change.entries ELSE -change.entries END
    WHERE id = change.owner;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER "TreeEntry_count_new" AFTER INSERT ON "TreeEntry" REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION berth_count_entries();
CREATE TRIGGER "TreeEntry_count_old" AFTER DELETE ON "TreeEntry" REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION berth_count_entries();
CREATE TRIGGER "TrashEntry_count_new" AFTER INSERT ON "TrashEntry" REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION berth_count_entries();
CREATE TRIGGER "TrashEntry_count_old" AFTER DELETE ON "TrashEntry" REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION berth_count_entries();

CREATE INDEX "TreeEntry_expiresAt" ON "TreeEntry" ("expiresAt") WHERE "expiresAt" IS NOT NULL;
-- The outputs of an owner's tasks, as folders.
CREATE INDEX "File_outputs" ON "File" ("ownerId", "taskId") WHERE "taskId" IS NOT NULL;
-- What no path names any more, for the sweep.
CREATE INDEX "File_unnamed" ON "File" ("unnamedAt") WHERE "unnamedAt" IS NOT NULL;
