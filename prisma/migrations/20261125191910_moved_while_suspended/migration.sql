-- Written by hand, as in the first migration.

-- Suspended work may be moved once before it goes on: from then on its operation is that migration, as it was planned.
ALTER TABLE "Lease"
  DROP CONSTRAINT "Lease_operation",
  ADD CONSTRAINT "Lease_operation" CHECK (
    CASE WHEN suspension IS NULL THEN operation IS NULL WHEN suspension <> 'suspended' THEN operation IS NOT NULL ELSE true END);
