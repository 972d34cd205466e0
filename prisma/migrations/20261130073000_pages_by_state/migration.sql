-- A page of one state is in the order of its index: without the id in it, a page of a state that most rows have was looked for
-- among all of them by time, past each that is under way.

-- DropIndex
DROP INDEX "Migration_state_createdAt_idx";

-- DropIndex
DROP INDEX "Task_state_createdAt_idx";

-- CreateIndex
CREATE INDEX "Migration_state_createdAt_id_idx" ON "Migration"("state", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_state_createdAt_id_idx" ON "Task"("state", "createdAt", "id");
