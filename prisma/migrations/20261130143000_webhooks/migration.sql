-- CreateEnum
CREATE TYPE "WebhookState" AS ENUM ('active', 'disabled');

-- AlterTable
ALTER TABLE "Owner" ADD COLUMN     "maxWebhooks" INTEGER;

-- CreateTable
CREATE TABLE "Webhook" (
    "id" TEXT NOT NULL,
    "ownerId" TEXT NOT NULL,
    "url" TEXT NOT NULL,
    "description" TEXT NOT NULL DEFAULT '',
    "types" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "site" BOOLEAN NOT NULL DEFAULT false,
    "state" "WebhookState" NOT NULL DEFAULT 'active',
    "disabledReason" TEXT,
    "disabledAt" TIMESTAMPTZ(3),
    "cursor" BIGINT NOT NULL,
    "epoch" INTEGER NOT NULL DEFAULT 0,
    "dueAt" TIMESTAMPTZ(3),
    "attempts" BIGINT NOT NULL DEFAULT 0,
    "failures" INTEGER NOT NULL DEFAULT 0,
    "failingSince" TIMESTAMPTZ(3),
    "lastError" TEXT,
    "retryAt" TIMESTAMPTZ(3),
    "warnedAt" TIMESTAMPTZ(3),
    "deliveredAt" TIMESTAMPTZ(3),
    "troubles" INTEGER NOT NULL DEFAULT 0,
    "disablings" INTEGER NOT NULL DEFAULT 0,
    "tests" INTEGER NOT NULL DEFAULT 0,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Webhook_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WebhookSecret" (
    "id" TEXT NOT NULL,
    "webhookId" TEXT NOT NULL,
    "keyId" TEXT NOT NULL,
    "sealed" BYTEA NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expiresAt" TIMESTAMPTZ(3),

    CONSTRAINT "WebhookSecret_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WebhookDelivery" (
    "webhookId" TEXT NOT NULL,
    "n" BIGINT NOT NULL,
    "seq" BIGINT NOT NULL,
    "eventId" TEXT NOT NULL,
    "type" TEXT NOT NULL,
    "status" INTEGER,
    "error" TEXT,
    "ms" INTEGER NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "WebhookDelivery_pkey" PRIMARY KEY ("webhookId","n")
);

-- CreateIndex
CREATE INDEX "Webhook_ownerId_createdAt_id_idx" ON "Webhook"("ownerId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Webhook_createdAt_id_idx" ON "Webhook"("createdAt", "id");

-- CreateIndex
CREATE INDEX "WebhookSecret_webhookId_idx" ON "WebhookSecret"("webhookId");

-- AddForeignKey
ALTER TABLE "Webhook" ADD CONSTRAINT "Webhook_ownerId_fkey" FOREIGN KEY ("ownerId") REFERENCES "Owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookSecret" ADD CONSTRAINT "WebhookSecret_webhookId_fkey" FOREIGN KEY ("webhookId") REFERENCES "Webhook"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookDelivery" ADD CONSTRAINT "WebhookDelivery_webhookId_fkey" FOREIGN KEY ("webhookId") REFERENCES "Webhook"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- What follows is written by hand.
ALTER TABLE "Owner" ADD CONSTRAINT "Owner_maxWebhooks" CHECK ("maxWebhooks" >= 0);

-- Deliveries that have to begin, and those that wait for events, of which there are many.
CREATE INDEX "Webhook_due" ON "Webhook" ("dueAt") WHERE state = 'active';
CREATE INDEX "Webhook_waiting" ON "Webhook" ("ownerId", id) WHERE state = 'active' AND "dueAt" IS NULL;
CREATE INDEX "Webhook_waiting_site" ON "Webhook" (id) WHERE state = 'active' AND "dueAt" IS NULL AND site;

-- The cursor of an endpoint goes back only where that is requested, which makes deliveries begin anew; a delivery that another one
-- has replaced changes nothing (decision 113).
ALTER TABLE "Webhook" ADD CONSTRAINT "Webhook_cursor" CHECK (cursor >= 0 AND epoch >= 0 AND attempts >= 0);
ALTER TABLE "Webhook" ADD CONSTRAINT "Webhook_disabled" CHECK ((state = 'disabled') = ("disabledReason" IS NOT NULL)
  AND (state = 'active' OR "dueAt" IS NULL));
CREATE FUNCTION berth_keep_webhook_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The cursor of webhook % goes back from % to %, and its deliveries were not begun anew', OLD.id, OLD.cursor, NEW.cursor
    USING ERRCODE = 'BE005';
END $$;
CREATE TRIGGER "Webhook_cursor" BEFORE UPDATE ON "Webhook" FOR EACH ROW
  WHEN (NEW.cursor < OLD.cursor AND NEW.epoch = OLD.epoch) EXECUTE FUNCTION berth_keep_webhook_cursor();
