import type { ExpiryRule } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import type { TreeSite } from './entry-record.ts';
import { lockTree } from './lock-tree.ts';
import { moveToTrash, purge, purgeUnkept } from './trash.ts';
import { deleteUnnamed, type RemovedContent } from './unnamed-files.ts';

export type ExpiryRuleRecord = ExpiryRule;

const maxRules = 100;

/** Makes a rule, or changes the one that the prefix has. */
export async function acceptExpiryRuleOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, prefix, afterS }: { owner: string; prefix: string; afterS: number },
  answer: (rule: ExpiryRuleRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    await lockOwner(tx, 'tree', owner);
    const rule = await tx.expiryRule.upsert({
      where: { ownerId_prefix: { ownerId: owner, prefix } },
      create: { id: newId('rule'), ownerId: owner, prefix, afterS },
      update: { afterS },
    });
    if ((await tx.expiryRule.count({ where: { ownerId: owner } })) > maxRules)
      throw new BerthError('conflict', `An owner has at most ${maxRules} expiry rules`);
    return answer(rule);
  });
}

export async function readExpiryRules(ledger: Ledger, owner: string, page: PageRequest): Promise<ExpiryRuleRecord[]> {
  return ledger.expiryRule.findMany(pageQuery(page, { ownerId: owner }));
}

/** Throws not-found. */
export async function changeExpiryRuleRemoved(ledger: Ledger, owner: string, id: string): Promise<void> {
  const { count } = await ledger.expiryRule.deleteMany({ where: { id, ownerId: owner } });
  if (count === 0) throw new BerthError('not-found', `There is no expiry rule ${id}`);
}

/** Files that are due, of one owner each: by their own time, or else by the rule with the longest prefix. */
async function readExpired(ledger: Ledger, nowMs: number, most: number): Promise<{ owner: string; path: string }[]> {
  const now = new Date(nowMs);
  return ledger.$queryRaw<{ owner: string; path: string }[]>`
    (SELECT "ownerId" AS owner, path FROM "TreeEntry" WHERE "expiresAt" <= ${now}::timestamptz LIMIT ${most})
    UNION
    (SELECT e."ownerId", e.path FROM "ExpiryRule" r JOIN "TreeEntry" e ON e."ownerId" = r."ownerId"
      AND e."modifiedAt" <= ${now}::timestamptz - r."afterS" * interval '1 second' AND starts_with(e.path, r.prefix)
    WHERE e."fileId" IS NOT NULL AND e."expiresAt" IS NULL AND NOT EXISTS (SELECT FROM "ExpiryRule" l WHERE l."ownerId" = r."ownerId"
      AND length(l.prefix) > length(r.prefix) AND starts_with(e.path, l.prefix))
    LIMIT ${most})`;
}

/** Whether an entry is still due, under the lock of its tree: what was stored anew meanwhile is not. */
async function expireOne(
  ledger: Ledger,
  { owner, path }: { owner: string; path: string },
  site: TreeSite,
): Promise<{ expired: boolean; removed: RemovedContent[] }> {
  return inTransaction(
    ledger,
    async (tx) => {
      await lockTree(tx, owner);
      const entry = await tx.treeEntry.findUnique({ where: { ownerId_path: { ownerId: owner, path } } });
      if (entry === null) return { expired: false, removed: [] };
      const rules = await tx.$queryRaw<{ afterS: number }[]>`
        SELECT "afterS" FROM "ExpiryRule" WHERE "ownerId" = ${owner} AND starts_with(${path}, prefix) ORDER BY length(prefix) DESC LIMIT 1`;
      const byRule =
        rules[0] === undefined || entry.fileId === null
          ? Number.POSITIVE_INFINITY
          : entry.modifiedAt.getTime() + rules[0].afterS * 1000;
      if ((entry.expiresAt?.getTime() ?? byRule) > site.nowMs) return { expired: false, removed: [] };
      const id = await moveToTrash(tx, owner, { path, reason: 'expired' }, site);
      return { expired: true, removed: await purgeUnkept(tx, owner, id, site) };
    },
    requestLimits,
  );
}

/** What a sweep of all trees did, and bytes that are nobody's any more. */
export interface TreeSweep {
  expired: number;
  purged: number;
  removed: RemovedContent[];
  /** Whether there may be more to do now. */
  more: boolean;
}

const batch = 500;

async function expireAll(ledger: Ledger, site: TreeSite, sweep: TreeSweep): Promise<void> {
  const due = await readExpired(ledger, site.nowMs, batch);
  for (const one of due) {
    const { expired, removed } = await expireOne(ledger, one, site);
    if (expired) sweep.expired += 1;
    sweep.removed.push(...removed);
  }
  // Of what another process has expired meanwhile nothing is left to do.
  sweep.more ||= due.length >= batch && sweep.expired > 0;
}

async function purgeOld(ledger: Ledger, { nowMs }: TreeSite, sweep: TreeSweep): Promise<void> {
  const old = await ledger.deletion.findMany({
    where: { purgeAt: { lte: new Date(nowMs) } },
    select: { id: true, ownerId: true },
    orderBy: { purgeAt: 'asc' },
    take: batch,
  });
  for (const { id, ownerId } of old) {
    const work = async (tx: Transaction): Promise<RemovedContent[]> => {
      await lockTree(tx, ownerId);
      return purge(tx, ownerId, id, nowMs);
    };
    sweep.removed.push(...(await inTransaction(ledger, work, requestLimits)));
  }
  sweep.purged += old.length;
  sweep.more ||= old.length === batch;
}

async function deleteNeededNoMore(ledger: Ledger, { nowMs }: TreeSite, sweep: TreeSweep): Promise<void> {
  const unnamed = await ledger.file.findMany({
    where: { unnamedAt: { not: null } },
    select: { id: true, ownerId: true },
    orderBy: { unnamedAt: 'asc' },
    take: batch,
  });
  for (const [ownerId, files] of Map.groupBy(unnamed, (file) => file.ownerId)) {
    const ids = files.map(({ id }) => id);
    sweep.removed.push(...(await inTransaction(ledger, (tx) => deleteUnnamed(tx, ownerId, ids, nowMs), requestLimits)));
  }
}

/** Deletes what has expired, purges what was in the trash for long enough, and files that were needed when their last path went. */
export async function sweepTrees(ledger: Ledger, site: TreeSite): Promise<TreeSweep> {
  const sweep: TreeSweep = { expired: 0, purged: 0, removed: [], more: false };
  await expireAll(ledger, site, sweep);
  await purgeOld(ledger, site, sweep);
  await deleteNeededNoMore(ledger, site, sweep);
  return sweep;
}
