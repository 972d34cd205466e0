import { z } from 'zod';
import { type BalancerMode, balancerModes } from '../../model/load/balancer.ts';
import type { Ledger } from '../client.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoOf } from '../transaction.ts';

/** What the site does about its load. */
export interface BalancerSettings {
  /** Seconds between the samples of a host's load, unless the host has its own. */
  heartbeatS: number;
  mode: BalancerMode;
}

const Settings = z.strictObject({ heartbeatS: z.int(), mode: z.enum(balancerModes) });

export async function readBalancer(ledger: Ledger): Promise<BalancerSettings> {
  const rows = await ledger.$queryRaw<unknown[]>`SELECT "heartbeatS", mode FROM "Balancer" WHERE row = 1`;
  return Settings.parse(oneOrNotFound(rows, 'balancer'));
}

type Changes = { [K in keyof BalancerSettings]?: BalancerSettings[K] | undefined };

/** Hosts follow within ten seconds. */
export async function changeBalancer(ledger: Ledger, { heartbeatS, mode }: Changes): Promise<BalancerSettings> {
  const rows = await ledger.$queryRaw<unknown[]>`
    UPDATE "Balancer" SET "heartbeatS" = COALESCE(${heartbeatS ?? null}::int, "heartbeatS"),
      mode = COALESCE(${mode ?? null}::"BalancerMode", mode) WHERE row = 1 RETURNING "heartbeatS", mode`;
  return Settings.parse(oneOrNotFound(rows, 'balancer'));
}

const Counts = z.strictObject({ reporting: z.int(), silent: z.int() });
const reportingMs = 10 * 60_000;

/** Of the hosts that are up: how many have reported their load lately. */
export async function readLoadCounts(ledger: Ledger, nowMs: number): Promise<{ reporting: number; silent: number }> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT count(*) FILTER (WHERE reports)::int AS reporting, count(*) FILTER (WHERE NOT reports)::int AS silent
    FROM (SELECT EXISTS (SELECT 1 FROM "LoadChunk" c WHERE c."hostId" = h.id AND c.detail = 'sample'
        AND c."untilAt" > ${isoOf(nowMs - reportingMs)}::timestamptz) AS reports
      FROM "Host" h WHERE h."removedAt" IS NULL AND h.state = 'up') hosts`;
  return Counts.parse(rows[0]);
}
