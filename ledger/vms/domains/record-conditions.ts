import type { DomainFinding, DomainTargets } from '../../../contracts/ledger-host.ts';
import type { HostId, VmId } from '../../../model/ids.ts';
import type { VmState } from '../../../model/states.ts';
import type { DomainCondition, PausedBy } from '../../../model/vm.ts';
import { inTransaction, isoNow, isoOf, type LedgerDeps, type Transaction } from '../../transaction.ts';
import { lockVm, type VmRow } from '../vm-row.ts';
import { endError, writeDomainEnd } from './end-domain.ts';
import { requestRestart } from './host-restarted.ts';
import { writeAnswers, writePaused, writeResumed } from './pauses.ts';

/** States in which a domain may change without Berth. In `changing` ones a saga is at work, and writes what it finds. */
const settledStates: readonly VmState[] = ['running', 'paused'];
const changingStates: readonly VmState[] = ['creating', 'suspending', 'restoring', 'migrating'];

interface ObservedVm extends VmRow {
  standalone: boolean;
  operation: string | null;
  pausedBy: PausedBy | null;
}

const isBusy = ({ state, operation, migrating }: Pick<ObservedVm, 'state' | 'operation' | 'migrating'>): boolean =>
  changingStates.includes(state) || (settledStates.includes(state) && (operation !== null || migrating));

export async function loadDomainTargets(deps: LedgerDeps, host: HostId, vmIds: VmId[]): Promise<DomainTargets> {
  const rows = await deps.ledger.$queryRaw<
    (Pick<ObservedVm, 'state' | 'operation' | 'migrating' | 'generation'> & { vmId: VmId })[]
  >`
    SELECT v.id AS "vmId", v.state, v.operation, v.generation, EXISTS (
      SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck') AND m."committedAt" IS NULL AND m.reserved) AS migrating
    FROM "Vm" v WHERE v.id = ANY(${vmIds}) AND (v."hostId" = ${host} OR v.state = 'migrating') AND NOT v.template ORDER BY v.id`;
  const busy = rows.filter(isBusy).map(({ vmId }) => vmId);
  const settled = rows.filter((row) => settledStates.includes(row.state) && !isBusy(row));
  return { settled: settled.map(({ vmId, generation }) => ({ vmId, generation })), busy };
}

/**
 * Writes what a host observed of domains. A VM whose generation is another one than before the observation, or on which an
 * operation has begun since, is left to the next observation.
 */
export async function recordDomains(
  deps: LedgerDeps,
  host: HostId,
  findings: DomainFinding[],
): Promise<{ changed: VmId[]; again: VmId[] }> {
  const changed: VmId[] = [];
  const again: VmId[] = [];
  for (const { vmId, generation, condition } of [...findings].sort((a, b) => (a.vmId < b.vmId ? -1 : 1)))
    await inTransaction(deps.ledger, async (tx) => {
      const row = await lockObserved(tx, vmId);
      if (row.hostId !== host) return;
      if (isBusy(row) || row.generation !== generation) return void again.push(vmId);
      if (settledStates.includes(row.state) && (await writeCondition(deps, tx, row, condition))) changed.push(vmId);
    });
  return { changed, again };
}

async function lockObserved(tx: Transaction, id: VmId): Promise<ObservedVm> {
  const row = await lockVm(tx, id);
  const { order, operation, pausedBy } = await tx.vm.findUniqueOrThrow({
    where: { id },
    select: { order: true, operation: true, pausedBy: true },
  });
  return { ...row, standalone: order !== null, operation, pausedBy };
}

/** @returns whether the VM has changed */
async function writeCondition(deps: LedgerDeps, tx: Transaction, row: ObservedVm, condition: DomainCondition): Promise<boolean> {
  const now = isoNow(deps);
  switch (condition.kind) {
    case 'running':
      if (row.state === 'paused') await writeResumed(tx, row, now);
      if (condition.answers === undefined) return row.state === 'paused';
      return (await writeAnswers(tx, row, condition.answers, now)) || row.state === 'paused';
    case 'paused':
      // One that an I/O error has paused is told as paused by a user once it has moved; only one that runs can be paused anew.
      if (row.pausedBy === condition.by || (row.pausedBy === 'ioError' && condition.by === 'operator')) return false;
      await writePaused(tx, row, condition.by, now);
      return true;
    case 'gone': {
      // The saga of a task, or of a build, follows its own guest.
      if (!row.standalone) return false;
      const endedAt = condition.agoMs === null ? now : isoOf(deps.clock() - condition.agoMs);
      const begun = row.resumedAt ?? row.startedAt;
      await writeDomainEnd(tx, row, { error: endError(condition.cause, row), endedAt, now });
      await requestRestart(tx, { id: row.id, cause: condition.cause, begun, now });
      return true;
    }
  }
}
