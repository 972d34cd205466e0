-- CreateTable
CREATE TABLE "EndedCount" (
    "subject" TEXT NOT NULL,
    "label" TEXT NOT NULL,
    "rows" BIGINT NOT NULL,
    "seconds" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "downtimeS" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "bytes" DOUBLE PRECISION NOT NULL DEFAULT 0,

    CONSTRAINT "EndedCount_pkey" PRIMARY KEY ("subject","label")
);

-- CreateTable
CREATE TABLE "EndedMark" (
    "subject" TEXT NOT NULL,
    "until" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "EndedMark_pkey" PRIMARY KEY ("subject")
);

-- What follows is written by hand: what has ended since the mark, and what is under way.
CREATE INDEX "Task_finished" ON "Task" ("finishedAt") WHERE "finishedAt" IS NOT NULL;
CREATE INDEX "Migration_finished" ON "Migration" ("finishedAt") WHERE "finishedAt" IS NOT NULL;
CREATE INDEX "Migration_open" ON "Migration" (id) WHERE "finishedAt" IS NULL;
CREATE INDEX "Vm_ended" ON "Vm" ("endedAt") WHERE state = 'removed' AND "endedAt" IS NOT NULL;
CREATE INDEX "Vm_never_ran" ON "Vm" (id) WHERE state = 'removed' AND "endedAt" IS NULL;

INSERT INTO "EndedMark" (subject, until) VALUES ('tasks', 'epoch'), ('migrations', 'epoch'), ('vms', 'epoch');
