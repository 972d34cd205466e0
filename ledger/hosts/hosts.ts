import type { Notification } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostFacts } from '../../model/host.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { providerOfHost } from '../offers/providers.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { endDomainsOfHost } from '../vms/domains/host-restarted.ts';

/**
 * Writes the host's row as its worker measured it: its capacity is the total less the reserve. A capacity below the sum of its
 * VMs is written as it is: they keep theirs, and no VM is added until it fits (see the first migration).
 * @returns whether the machine was booted since its last registration
 */
async function upsertHost(tx: Transaction, facts: HostFacts, now: string): Promise<{ restarted: boolean }> {
  const allocatable = (of: 'vcpus' | 'memoryMiB' | 'diskMiB') => Math.max(0, Math.floor(facts.capacity[of] - facts.reserve[of]));
  const clash = await tx.$queryRaw<{ id: string }[]>`
    SELECT id FROM "Host" WHERE address = ${facts.address} AND id <> ${facts.hostId}`;
  if (clash[0] !== undefined)
    throw new BerthError(
      'conflict',
      `Host ${facts.hostId} registers with the address ${facts.address}, which is host ${clash[0].id}'s: set BERTH_HOST_ADDRESS of one of them`,
    );
  await refuseSecondMachine(tx, facts);
  const measured = {
    address: facts.address,
    provider: await providerOfHost(tx, facts, now),
    state: 'up' as const,
    vcpus: allocatable('vcpus'),
    memoryMiB: allocatable('memoryMiB'),
    diskMiB: allocatable('diskMiB'),
    cpuModel: facts.cpuModel,
    accelerator: facts.accelerator,
    hypervisor: facts.hypervisor,
    bootId: facts.bootId,
    machine: facts.machine ?? null,
    seenAt: now,
    removedAt: null,
  };
  const before = await tx.host.findUnique({ where: { id: facts.hostId }, select: { bootId: true } });
  await tx.host.upsert({
    where: { id: facts.hostId },
    create: { id: facts.hostId, createdAt: now, ...measured },
    update: measured,
    select: { id: true },
  });
  return { restarted: before !== null && before.bootId !== facts.bootId };
}

/**
 * Two machines with one BERTH_HOST_ID would each take steps of the same VMs. The second is refused as long as the first is up; once
 * that is silent, the host is the machine that registers: it was replaced, or its disk was.
 */
async function refuseSecondMachine(tx: Transaction, { hostId, machine }: HostFacts): Promise<void> {
  const first = await tx.host.findFirst({ where: { id: hostId, state: 'up', removedAt: null }, select: { machine: true } });
  if (machine === undefined || first === null || first.machine === null || first.machine === machine) return;
  throw new BerthError(
    'conflict',
    `Host ${hostId} is the machine ${first.machine}, which answers; ${machine} is another one. Give it a BERTH_HOST_ID of its own, or end the worker of the first and wait until the host is unknown`,
  );
}

/** Replaces the images of the host's cache; images that the ledger does not know are left out. */
async function replaceImages(tx: Transaction, facts: HostFacts, now: string): Promise<void> {
  await tx.$executeRaw`
    WITH gone AS (DELETE FROM "HostImage" WHERE "hostId" = ${facts.hostId} AND NOT ("imageId" = ANY(${facts.images})))
    INSERT INTO "HostImage" ("hostId", "imageId", "usedAt")
    SELECT ${facts.hostId}, id, ${now}::timestamptz FROM "Image" WHERE id = ANY(${facts.images})
    ON CONFLICT ("hostId", "imageId") DO NOTHING`;
}

/**
 * A host's worker has started: writes its row and its images, and places the queue. Where the machine was booted since, its
 * domains have ended. Returns the workflows to notify.
 */
export async function registerHost(deps: LedgerDeps, facts: HostFacts): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const { restarted } = await upsertHost(tx, facts, now);
    await replaceImages(tx, facts, now);
    const ended = restarted ? await endDomainsOfHost(deps, tx, facts.hostId, facts.bootedAgoMs ?? null) : [];
    return [...ended, ...(await placeWaiting(deps, tx)).notify];
  });
}

/** The host's worker does not answer: the host gets no new work. Its VMs may still run, and keep their capacity. Throws not-found. */
export async function markHostUnreachable(deps: LedgerDeps, id: HostId): Promise<void> {
  const { count } = await deps.ledger.host.updateMany({ where: { id }, data: { state: 'unknown' } });
  if (count === 0) throw new BerthError('not-found', `There is no host ${id} in the ledger`);
}

/** The host has the image in its cache, and has just used it. Throws not-found for an unknown host or image. */
export async function recordImageCached(deps: LedgerDeps, host: HostId, image: ImageId): Promise<void> {
  const written = await deps.ledger.$executeRaw`
    INSERT INTO "HostImage" ("hostId", "imageId", "usedAt")
    SELECT h.id, i.id, ${isoNow(deps)}::timestamptz FROM "Host" h, "Image" i WHERE h.id = ${host} AND i.id = ${image}
    ON CONFLICT ("hostId", "imageId") DO UPDATE SET "usedAt" = EXCLUDED."usedAt"`;
  if (written === 0) throw new BerthError('not-found', `There is no host ${host} or no image ${image} in the ledger`);
}
