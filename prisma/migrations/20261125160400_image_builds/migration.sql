-- DropIndex
DROP INDEX "Image_name_digest_key";

-- AlterTable
ALTER TABLE "File" ADD COLUMN     "imageId" TEXT;

-- AlterTable
ALTER TABLE "Image" ADD COLUMN     "baseId" TEXT,
ADD COLUMN     "buildVmId" TEXT,
ADD COLUMN     "cancelRequestedAt" TIMESTAMPTZ(3),
ADD COLUMN     "finishedAt" TIMESTAMPTZ(3),
ADD COLUMN     "namedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
ADD COLUMN     "publishedAt" TIMESTAMPTZ(3),
ADD COLUMN     "startedAt" TIMESTAMPTZ(3),
ADD COLUMN     "sweptAt" TIMESTAMPTZ(3),
ADD COLUMN     "timeline" JSONB NOT NULL DEFAULT '[]',
ADD COLUMN     "workflowAt" TIMESTAMPTZ(3);

-- CreateIndex
CREATE UNIQUE INDEX "File_imageId_name_key" ON "File"("imageId", "name");

-- CreateIndex
CREATE UNIQUE INDEX "Image_buildVmId_key" ON "Image"("buildVmId");

-- CreateIndex
CREATE INDEX "Image_name_namedAt_idx" ON "Image"("name", "namedAt");

-- CreateIndex
CREATE INDEX "Image_state_createdAt_idx" ON "Image"("state", "createdAt");

-- AddForeignKey
ALTER TABLE "Image" ADD CONSTRAINT "Image_baseId_fkey" FOREIGN KEY ("baseId") REFERENCES "Image"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Image" ADD CONSTRAINT "Image_buildVmId_fkey" FOREIGN KEY ("buildVmId") REFERENCES "Vm"("id") ON DELETE RESTRICT ON UPDATE CASCADE;


-- What follows is written by hand, as in the first migration. SQLSTATEs: BE006 in use · BE007 the name is another's

-- The same recipe isn't built twice. A retired one may be made again.
CREATE UNIQUE INDEX "Image_one_of_a_digest" ON "Image" ("ownerId", name, digest) NULLS NOT DISTINCT WHERE state <> 'retired';

-- A failed build may be given up as well as tried again.
DROP TRIGGER "Image_transition" ON "Image";
CREATE TRIGGER "Image_transition" BEFORE UPDATE ON "Image" FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION berth_check_transition('building>ready', 'building>failed', 'ready>retired', 'failed>building', 'failed>retired');

-- Nothing that anybody could use is half: a ready image has a disk, and a kernel and an initrd or neither.
ALTER TABLE "Image"
  ADD CONSTRAINT "Image_whole" CHECK ((parts ? 'kernel') = (parts ? 'initrd')),
  ADD CONSTRAINT "Image_built" CHECK (state <> 'ready' OR "buildVmId" IS NULL OR (parts->'disk' ? 'file' AND "sizeBytes" > 0)),
  ADD CONSTRAINT "Image_size" CHECK ("virtualMiB" >= 0 AND "sizeBytes" >= 0),
  ADD CONSTRAINT "Image_building" CHECK (state <> 'building' OR parts = '{}'),
  ADD CONSTRAINT "Image_published" CHECK ("publishedAt" IS NULL OR "ownerId" IS NOT NULL);

-- A VM is made from an image that is there; its row and the image's retirement wait for each other. (The VM that writes
-- an uploaded disk anew names the image that it makes.)
CREATE FUNCTION berth_check_vm_image() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM "Image" WHERE id = NEW."imageId" AND (state = 'ready' OR state = 'building' AND "baseId" IS NULL) FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'VM % cannot be made from image %: it is not ready', NEW.id, NEW."imageId" USING ERRCODE = 'BE006';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_image" BEFORE INSERT ON "Vm" FOR EACH ROW WHEN (NEW."imageId" IS NOT NULL)
EXECUTE FUNCTION berth_check_vm_image();

CREATE FUNCTION berth_check_retirement() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  used text := (SELECT min(id) FROM "Vm" WHERE "imageId" = NEW.id AND state <> 'removed');
BEGIN
  IF used IS NOT NULL THEN
    RAISE EXCEPTION 'Image % is in use by VM %', NEW.name, used USING ERRCODE = 'BE006';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Image_retire" BEFORE UPDATE OF state ON "Image" FOR EACH ROW
WHEN (NEW.state = 'retired' AND OLD.state = 'ready') EXECUTE FUNCTION berth_check_retirement();

-- For everybody a name stands for images of one owner, of whatever digest.
CREATE FUNCTION berth_check_published() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('berth published ' || NEW.name, 0));
  IF EXISTS (SELECT FROM "Image" WHERE name = NEW.name AND id <> NEW.id AND state <> 'retired'
               AND ("ownerId" IS NULL OR "publishedAt" IS NOT NULL) AND "ownerId" IS DISTINCT FROM NEW."ownerId") THEN
    RAISE EXCEPTION 'Another owner''s image is published as %', NEW.name USING ERRCODE = 'BE007';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Image_publish" BEFORE INSERT OR UPDATE OF "publishedAt", name ON "Image" FOR EACH ROW
WHEN ((NEW."ownerId" IS NULL OR NEW."publishedAt" IS NOT NULL) AND NEW.state <> 'retired') EXECUTE FUNCTION berth_check_published();

CREATE INDEX "Vm_image_live" ON "Vm" ("imageId") WHERE state <> 'removed';
ALTER TABLE "File" ADD CONSTRAINT "File_of_one" CHECK ("taskId" IS NULL OR "imageId" IS NULL);

-- A VM in which an image is built belongs to its build, which knows nothing of moves and sleeps.
CREATE FUNCTION berth_check_builder() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM "Image" WHERE "buildVmId" = NEW.id AND state = 'building') THEN
    RAISE EXCEPTION 'VM % builds an image; it cannot go to %', NEW.id, NEW.state USING ERRCODE = 'BE001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER "Vm_builder" BEFORE UPDATE OF state ON "Vm" FOR EACH ROW
WHEN (NEW.state IN ('migrating', 'suspending', 'paused')) EXECUTE FUNCTION berth_check_builder();
