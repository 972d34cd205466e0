-- CreateIndex
CREATE INDEX "ApiKey_createdAt_id_idx" ON "ApiKey"("createdAt", "id");

-- What follows is written by hand: the accounts that are summed, beside a closed one for each hold there was.
CREATE INDEX "Account_unlimited" ON "Account" (id) WHERE "lowerLimit" IS NULL;
