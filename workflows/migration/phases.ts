import type { MigrateOutResult } from '../../contracts/host-migration.ts';
import type { MigrationPhase, PhaseEntry } from '../../model/migration.ts';
import { isoNow } from '../durable/progress.ts';
import type { StepRow } from '../durable/step.ts';
import type { MigrationRun } from './migration-run.ts';

/** A row of a migration's table: a phase of model/migration.ts. */
export interface PhaseRow extends StepRow {
  readonly name: MigrationPhase;
}

export async function trackPhase<T>(run: MigrationRun, name: MigrationPhase, act: () => Promise<T>): Promise<T> {
  const entry: PhaseEntry = { name, startedAt: isoNow(), seconds: null, bytes: 0 };
  run.phases.push(entry);
  run.progress.setDetail(
    'step',
    `**${name}** of ${run.vmId} from ${run.route.from.id} to ${run.route.to.id} since ${entry.startedAt}`,
  );
  try {
    return await act();
  } finally {
    entry.seconds = secondsSince(entry.startedAt);
  }
}

/** Bytes sent over the network in a phase, which are known at its end. */
export function setPhaseBytes({ phases }: MigrationRun, name: MigrationPhase, bytes: number): void {
  const entry = phases.find((one) => one.name === name);
  if (entry !== undefined) entry.bytes = bytes;
}

/** The phases for the ledger. One that has not ended gets its duration until now: it ends with this write. */
export function closedPhases({ phases }: MigrationRun): PhaseEntry[] {
  return phases.map((entry) => ({ ...entry, seconds: entry.seconds ?? secondsSince(entry.startedAt) }));
}

/** Splits the switch from the pre-copy: the saga sees both as one activity, and the source measured the downtime. */
export function splitSwitch({ phases }: MigrationRun, { downtimeMs, bytes }: MigrateOutResult): void {
  const entry = phases.find(({ name }) => name === 'preCopy');
  if (entry === undefined || entry.seconds === null) return;
  entry.bytes = bytes;
  if (downtimeMs === null) return;
  const preCopyMs = Math.max(0, entry.seconds * 1000 - downtimeMs);
  entry.seconds = preCopyMs / 1000;
  const startedAt = new Date(Date.parse(entry.startedAt) + preCopyMs).toISOString();
  phases.push({ name: 'switch', startedAt, seconds: downtimeMs / 1000, bytes: 0 });
}

/** The phase that ended with the admission. */
export const reservePhase = (startedAt: string): PhaseEntry => ({
  name: 'reserve',
  startedAt,
  seconds: secondsSince(startedAt),
  bytes: 0,
});

const secondsSince = (at: string): number => Math.max(0, Date.now() - Date.parse(at)) / 1000;
