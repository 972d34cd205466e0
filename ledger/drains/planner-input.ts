import type { DrainMode, DrainStrategy, SuspendInPlace } from '../../model/drain.ts';
import type { GroupMembers } from '../../scheduler/constraints.ts';
import type { DrainPlanInput, DrainTarget } from '../../scheduler/drains/drain-input.ts';
import { fitMigrationModel, type MigrationModel } from '../../scheduler/drains/migration-model.ts';
import type { MigrationSample, OperationKind } from '../../scheduler/drains/migration-operations.ts';
import { moveModes } from '../../scheduler/drains/migration-operations.ts';
import { isOpenToMigrations } from '../hosts/open-hosts.ts';
import { groupsIn, labelsOf, readMembers } from '../placement/read-rules.ts';
import type { Transaction } from '../transaction.ts';
import { type DrainVmState, readHostVms, readVmsOfHosts } from './host-vms.ts';

/** The model is fitted to this many of the newest measurements. */
const maxSamples = 400;
/** As fitted to the newest measurements. */
export async function readMigrationModel(tx: Transaction): Promise<MigrationModel> {
  const rows = await tx.measurement.findMany({ orderBy: [{ at: 'desc' }, { id: 'asc' }], take: maxSamples });
  return fitMigrationModel(
    rows.map(
      (row): MigrationSample => ({
        kind: row.kind as OperationKind,
        from: row.fromId,
        to: row.toId,
        load: {
          vm: row.vmId,
          memoryMiB: row.memoryMiB,
          residentMiB: row.residentMiB,
          dirtyMiBPerS: row.dirtyMiBPerS,
          diskMiB: row.diskMiB ?? 0,
        },
        concurrency: row.concurrency,
        atMs: row.at.getTime(),
        seconds: row.seconds,
        transferS: row.transferS,
        bytes: Number(row.bytes),
        recoveryS: row.recoveryS,
      }),
    ),
  );
}

/** Every host as a target, with the number of VMs that this drain has moved there. */
async function readDrainTargets(tx: Transaction, host: string, drain: string): Promise<DrainTarget[]> {
  const rows = await tx.$queryRaw<(DrainTarget & { labels: unknown })[]>`
    SELECT h.id, h.state, h.labels, ${isOpenToMigrations} AS "acceptsMigrations", h.accelerator, h."cpuModel",
      jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB") AS capacity,
      jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB") AS used,
      h."diskMiB" - h."usedDiskMiB" AS "freeDiskMiB",
      COALESCE(g.vms, 0) AS given
    FROM "Host" h LEFT JOIN (
      SELECT m."toId", count(*)::int AS vms FROM "Migration" m JOIN "Vm" v ON v.id = m."vmId" AND v."hostId" = m."toId" AND v.state <> 'removed'
      WHERE m."requestedBy" = ${drain} AND m.state = 'succeeded' AND m.mode <> 'disks' AND m."fromId" = ${host} GROUP BY m."toId"
    ) g ON g."toId" = h.id WHERE h."removedAt" IS NULL ORDER BY h.id`;
  return rows.map((row) => ({ ...row, labels: labelsOf(row.labels) }));
}

/** Where the other members of the VMs' groups are. */
async function readDrainMembers(tx: Transaction, vms: readonly DrainVmState[]): Promise<GroupMembers> {
  return readMembers(tx, groupsIn(vms.map(({ rules }) => rules ?? null)));
}

export interface DrainPlanRequest {
  host: string;
  /** The drain's id; '' before it has one. */
  drain: string;
  deadlineMs: number;
  strategy: DrainStrategy;
  mode: DrainMode;
  /** Whether the disks of its VMs leave the host as well. */
  moveDisks: boolean;
  /** Whether VMs that no other host can take are suspended on the host. */
  suspendInPlace: SuspendInPlace;
  /** The probability with which the plan has to meet the deadline. */
  confidence: number;
  nowMs: number;
}

/** Reads everything that the plan of a drain depends on. */
export async function readDrainInput(
  tx: Transaction,
  request: DrainPlanRequest,
): Promise<Omit<DrainPlanInput, 'vms'> & { vms: DrainVmState[] }> {
  const { host, drain, deadlineMs, strategy, mode, suspendInPlace, confidence, nowMs } = request;
  const modes = mode === 'auto' ? moveModes : [mode];
  const vms = await readHostVms(tx, request);
  const hosts = await readDrainTargets(tx, host, drain);
  const model = await readMigrationModel(tx);
  const members = await readDrainMembers(tx, vms);
  return { nowMs, deadlineMs, host, strategy, confidence, vms, hosts, members, suspendInPlace, modes, model };
}

type DrainInput = Awaited<ReturnType<typeof readDrainInput>>;

/** Reads inputs for drains of several hosts that have not begun, as if each were the only one: the site and the model once. */
export async function openDrainInputs(
  tx: Transaction,
  request: Omit<DrainPlanRequest, 'host' | 'drain'>,
): Promise<(hosts: readonly string[]) => Promise<Map<string, DrainInput>>> {
  const { deadlineMs, strategy, mode, suspendInPlace, confidence, nowMs } = request;
  const modes = mode === 'auto' ? moveModes : [mode];
  const targets = await readDrainTargets(tx, '', '');
  const model = await readMigrationModel(tx);
  return async (hosts) => {
    const vms = await readVmsOfHosts(tx, hosts, { ...request, drain: '' });
    const members = await readDrainMembers(tx, [...vms.values()].flat());
    const inputOf = (host: string): DrainInput => {
      return {
        nowMs,
        deadlineMs,
        host,
        strategy,
        confidence,
        vms: vms.get(host) ?? [],
        hosts: targets,
        members,
        suspendInPlace,
        modes,
        model,
      };
    };
    return new Map(hosts.map((host) => [host, inputOf(host)]));
  };
}
