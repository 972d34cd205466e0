import { Prisma } from '../../generated/prisma/client.ts';
import type { AccountKind } from '../../model/books/money.ts';
import { BerthError } from '../../model/errors.ts';
import { type AccountId, newId } from '../../model/ids.ts';
import type { PageRequest } from '../page.ts';
import type { Transaction } from '../transaction.ts';

/** Which account: there is one of each kind, holder, name and currency. */
export interface AccountRef {
  kind: AccountKind;
  /** The owner that sees it, and whose it is where the kind is owner or hold; null: operators alone see it. */
  ownerId: string | null;
  /** Whose it is: the id of an owner, the name of a provider; '' for the site's own and for taxes. */
  holder: string;
  /** Tells accounts of one holder apart: of a hold what it is for. */
  name: string;
  /** Three capital letters, as ISO 4217 has them. */
  currency: string;
}

export interface AccountRecord extends AccountRef {
  id: AccountId;
  /** Below which its balance never falls; null: there is no limit, and transfers do not wait for each other at it. */
  lowerLimitMicros: bigint | null;
  balanceMicros: bigint;
  createdAt: Date;
  closedAt: Date | null;
}

/** An owner's own account of a currency. */
export const ownerAccount = (ownerId: string, currency: string): AccountRef => ({
  kind: 'owner',
  ownerId,
  holder: ownerId,
  name: '',
  currency,
});

/** The site's account for a purpose. */
export const siteAccount = (name: string, currency: string): AccountRef => ({
  kind: 'site',
  ownerId: null,
  holder: '',
  name,
  currency,
});

interface AccountRow extends AccountRef {
  id: AccountId;
  lowerLimit: bigint | null;
  total: string;
  createdAt: Date;
  closedAt: Date | null;
}

const recordOf = ({ lowerLimit, total, ...row }: AccountRow): AccountRecord => ({
  ...row,
  lowerLimitMicros: lowerLimit,
  balanceMicros: BigInt(total),
});

/** In one statement, so that a summing between two does not count an entry twice. As a text: a sum may exceed a bigint. */
const selectAccounts = Prisma.sql`
  SELECT a.id, a.kind::text AS kind, a."ownerId", a.holder, a.name, a.currency, a."lowerLimit", a."createdAt", a."closedAt",
    (a.balance + COALESCE(
      (SELECT sum(e.amount) FROM "Entry" e WHERE e."accountId" = a.id AND e.seq > a."summedTo"), 0))::text AS total
  FROM "Account" a`;

/**
 * Opens an account, or finds it. An account is opened before the transaction posts.
 * Throws conflict for one that has no lower limit where one is wanted, or the other way round; a limit is not changed here.
 */
export async function openAccount(
  tx: Transaction,
  ref: AccountRef,
  { lowerLimitMicros, nowMs }: { lowerLimitMicros: bigint | null; nowMs: number },
): Promise<AccountRecord> {
  await tx.account.createMany({
    data: { ...ref, id: newId('account'), lowerLimit: lowerLimitMicros, createdAt: new Date(nowMs) },
    skipDuplicates: true,
  });
  const { kind, holder, name, currency } = ref;
  const rows = await tx.$queryRaw<AccountRow[]>`${selectAccounts}
    WHERE a.kind = ${kind}::"AccountKind" AND a.holder = ${holder} AND a.name = ${name} AND a.currency = ${currency}`;
  const account = recordOf(rows[0]!);
  if ((account.lowerLimitMicros === null) !== (lowerLimitMicros === null))
    throw new BerthError(
      'conflict',
      `Account ${account.id} ${account.lowerLimitMicros === null ? 'has no lower limit' : 'has a lower limit'}, and keeps that`,
    );
  return account;
}

/** @param owner whose account; null: any. Throws not-found. */
export async function findAccount(tx: Transaction, owner: string | null, id: string): Promise<AccountRecord> {
  const visible = owner === null ? Prisma.sql`TRUE` : Prisma.sql`a."ownerId" = ${owner}`;
  const rows = await tx.$queryRaw<AccountRow[]>`${selectAccounts} WHERE a.id = ${id} AND ${visible}`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no account ${id}`);
  return recordOf(rows[0]);
}

/**
 * A page and one row more, newest first, with their balances.
 * @param filter `owner`: whose; null: every owner's, providers', the site's and taxes
 */
export async function readAccounts(
  tx: Transaction,
  { owner, kind }: { owner: string | null; kind?: AccountKind | undefined },
  { limit, after }: PageRequest,
): Promise<AccountRecord[]> {
  const conditions = [
    owner === null ? Prisma.sql`TRUE` : Prisma.sql`a."ownerId" = ${owner}`,
    kind === undefined ? Prisma.sql`TRUE` : Prisma.sql`a.kind = ${kind}::"AccountKind"`,
    after === null ? Prisma.sql`TRUE` : Prisma.sql`(a."createdAt", a.id) < (${after.createdAt}, ${after.id})`,
  ];
  const rows = await tx.$queryRaw<AccountRow[]>`${selectAccounts}
    WHERE ${Prisma.join(conditions, ' AND ')} ORDER BY a."createdAt" DESC, a.id DESC LIMIT ${limit + 1}`;
  return rows.map(recordOf);
}
