-- Written by hand, as in the first migration.

-- Whether the guest of a VM that moved live answers where it is now. Heard behind the commit, so it is no part of the outcome.
ALTER TABLE "Migration"
  ADD COLUMN guest TEXT,
  ADD CONSTRAINT "Migration_guest" CHECK (guest IN ('answers', 'silent', 'unknown') AND (guest IS NULL OR state = 'succeeded' OR "committedAt" IS NOT NULL));
