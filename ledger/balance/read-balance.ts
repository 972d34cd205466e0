import { z } from 'zod';
import type { HostId, VmId } from '../../model/ids.ts';
import { starvedCpus, vmLoadFields, wantedCpus } from '../../model/load/load.ts';
import type { BalanceInput, HelpRequest } from '../../scheduler/balance/decision.ts';
import {
  type BalanceHost,
  type BalanceVm,
  balancePolicy,
  type ProcessorLoad,
  type PromisedCapacity,
} from '../../scheduler/balance/site.ts';
import type { Ledger } from '../client.ts';
import { type DrainVmState, readVmsOfHosts } from '../drains/host-vms.ts';
import { readMigrationModel } from '../drains/planner-input.ts';
import { isOpenToMigrations } from '../hosts/open-hosts.ts';
import type { LatestLoad } from '../load/read-loads.ts';
import { groupsIn, labelsOf, readMembers } from '../placement/read-rules.ts';
import { idOf } from '../row-schemas.ts';

/** Moves of the balancer that count for the cool-down of a VM. */
const dayMs = 86_400_000;
/** Before that what a VM wants over hours is not known: it is taken as what it wants now, which may be anything else. */
const leastLearnedS = 600;

const HostRow = z.strictObject({
  id: idOf<HostId>(),
  state: z.enum(['up', 'unknown']),
  acceptsMigrations: z.boolean(),
  accelerator: z.string(),
  cpuModel: z.string(),
  vcpus: z.int(),
  memoryMiB: z.int(),
  usedVcpus: z.int(),
  usedMemoryMiB: z.int(),
  arriving: z.int(),
  leaving: z.int(),
  balance: z.boolean(),
  labels: z.record(z.string(), z.string()),
  draining: z.boolean(),
});

const PromiseRow = z.strictObject({ host: z.string(), fromMs: z.number(), vcpus: z.int(), memoryMiB: z.int() });

const VmRow = z.strictObject({
  id: idOf<VmId>(),
  host: z.string(),
  homeId: z.string().nullable(),
  startedMs: z.number().nullable(),
  pinned: z.boolean(),
  keep: z.boolean(),
  promised: z.boolean(),
  movedMs: z.array(z.number()),
});

const MigratingRow = z.strictObject({ vm: z.string(), from: z.string(), to: z.string(), vcpus: z.int() });

/** What a VM wants, by the last sample of its host. */
function loadOf(latest: LatestLoad | undefined, vm: string, vcpus: number): ProcessorLoad {
  const row = latest?.vms.get(vm);
  // One that has just been started: half of what it may use.
  if (latest === undefined || row === undefined) return { cpus: vcpus / 2, meanCpus: vcpus / 2, varianceCpus: (vcpus / 4) ** 2 };
  const wanted = Math.min(vcpus, wantedCpus(row));
  const [mean, variance, learnedS] = latest.learned[vm] ?? [0, 0, 0];
  if (learnedS < leastLearnedS) return { cpus: wanted, meanCpus: wanted, varianceCpus: (wanted / 4) ** 2 };
  return { cpus: wanted, meanCpus: Math.min(vcpus, mean), varianceCpus: variance };
}

const noLoad: ProcessorLoad = { cpus: 0, meanCpus: 0, varianceCpus: 0 };
const sum = (a: ProcessorLoad, b: ProcessorLoad, sign = 1): ProcessorLoad => ({
  cpus: Math.max(0, a.cpus + sign * b.cpus),
  meanCpus: Math.max(0, a.meanCpus + sign * b.meanCpus),
  varianceCpus: Math.max(0, a.varianceCpus + sign * b.varianceCpus),
});

/** Processors that VMs of a host wanted in its last sample, and did not get. */
export function starvedCpusOf({ vms }: Pick<LatestLoad, 'vms'>): number {
  return [...vms.values()].reduce((all, row) => all + starvedCpus(row), 0);
}

/** What a decision knows: the input, and what each host has said last. */
export interface BalanceSite {
  input: BalanceInput;
  loads: ReadonlyMap<string, LatestLoad>;
}

/**
 * Reads all hosts, and of those that ask for help the VMs. A host whose load is not known takes none and gives none.
 * @param latest of all hosts
 * @param considered whose VMs are read, besides those of the hosts that ask
 */
export async function readBalanceSite(
  ledger: Ledger,
  requests: readonly HelpRequest[],
  latest: readonly LatestLoad[],
  nowMs: number,
  considered: readonly string[] = [],
): Promise<BalanceSite> {
  const loads = new Map(latest.map((one) => [one.hostId, one]));
  const vms = await readBalanceVms(ledger, [...requests.map(({ host }) => host), ...considered], loads, nowMs);
  const hosts = await readBalanceHosts(ledger, loads, vms);
  const model = await readMigrationModel(ledger);
  const members = await readMembers(ledger, groupsIn(vms.map(({ vm }) => vm)));
  return {
    input: { nowMs, hosts, vms: vms.map(({ vm }) => vm), members, requests, policy: balancePolicy, model },
    loads,
  };
}

interface FoundVm {
  vm: BalanceVm;
  /** The hosts that have its image. */
  imageAt: readonly string[];
}

async function readBalanceHosts(
  ledger: Ledger,
  loads: ReadonlyMap<string, LatestLoad>,
  vms: readonly FoundVm[],
): Promise<BalanceHost[]> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT h.id, h.state, ${isOpenToMigrations} AS "acceptsMigrations", h.accelerator, h."cpuModel", h.vcpus, h."memoryMiB", h."usedVcpus",
      h."usedMemoryMiB", h.balance, h.labels,
      h."vacantFrom" IS NOT NULL OR EXISTS (SELECT FROM "Drain" d WHERE d."hostId" = h.id AND d."finishedAt" IS NULL) AS draining,
      (SELECT count(*)::int FROM "Migration" m WHERE m.reserved AND m."toId" = h.id)
        + (SELECT count(*)::int FROM "MoveHold" o WHERE o."hostId" = h.id AND o."migrationId" IS NOT NULL) AS arriving,
      (SELECT count(*)::int FROM "Migration" m WHERE m.reserved AND m."fromId" = h.id) AS leaving
    FROM "Host" h WHERE h."removedAt" IS NULL ORDER BY h.id`;
  const promises = Map.groupBy(await readPromises(ledger), ({ host }) => host);
  const migrating = z.array(MigratingRow).parse(
    await ledger.$queryRaw<unknown[]>`
      SELECT m."vmId" AS vm, m."fromId" AS "from", m."toId" AS "to", m.vcpus FROM "Migration" m
      WHERE m.reserved AND m."toId" IS NOT NULL AND m.mode <> 'disks'`,
  );
  const images = new Map<string, Set<string>>();
  for (const { vm, imageAt } of vms)
    for (const host of imageAt) images.set(host, (images.get(host) ?? new Set()).add(vm.image?.id ?? ''));
  return z
    .array(HostRow)
    .parse(rows)
    .map((row): BalanceHost => {
      const found = loads.get(row.id);
      let load = [...(found?.vms.keys() ?? [])].reduce(
        (all, vm) => sum(all, loadOf(found, vm, Number.POSITIVE_INFINITY)),
        noLoad,
      );
      let count = found?.vms.size ?? 0;
      for (const { vm, from, to, vcpus } of migrating) {
        if (from !== row.id && to !== row.id) continue;
        // Counted where it will be, whichever of the two hosts it was seen on.
        const isHere = found?.vms.has(vm) ?? false;
        if (to === row.id && !isHere) [load, count] = [sum(load, loadOf(loads.get(from), vm, vcpus)), count + 1];
        if (from === row.id && isHere) [load, count] = [sum(load, loadOf(found, vm, vcpus), -1), count - 1];
      }
      return {
        id: row.id,
        state: row.state,
        acceptsMigrations: row.acceptsMigrations,
        accelerator: row.accelerator,
        cpuModel: row.cpuModel,
        capacity: { vcpus: row.vcpus, memoryMiB: row.memoryMiB },
        used: { vcpus: row.usedVcpus, memoryMiB: row.usedMemoryMiB },
        arriving: row.arriving,
        leaving: row.leaving,
        labels: labelsOf(row.labels),
        images: images.get(row.id) ?? new Set(),
        balance: row.balance && found !== undefined,
        draining: row.draining,
        processors: found?.processors ?? 1,
        load,
        promises: promises.get(row.id) ?? [],
        vms: count,
      };
    });
}

/** What is promised of hosts to leases that have not begun, and to reservations of whole hosts. */
async function readPromises(ledger: Ledger): Promise<(PromisedCapacity & { host: string })[]> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT p.host, (extract(epoch FROM l."startAt") * 1000)::float8 AS "fromMs", v.vcpus, v."memoryMiB"
    FROM "Lease" l CROSS JOIN unnest(l."plannedHosts") WITH ORDINALITY p(host, n)
      JOIN "Vm" v ON v."leaseId" = l.id AND COALESCE(v.node, 0) = p.n - 1 AND v.state = 'pending'
    WHERE l."startAt" IS NOT NULL AND l."startedAt" IS NULL AND l."endedAt" IS NULL
    UNION ALL
    SELECT o."hostId", (extract(epoch FROM r."startAt") * 1000)::float8, h.vcpus, h."memoryMiB"
    FROM "HostHold" o JOIN "HostReservation" r ON r.id = o."reservationId" JOIN "Host" h ON h.id = o."hostId"
    WHERE r."finishedAt" IS NULL`;
  return z.array(PromiseRow).parse(rows);
}

async function readBalanceVms(
  ledger: Ledger,
  hosts: readonly string[],
  loads: ReadonlyMap<string, LatestLoad>,
  nowMs: number,
): Promise<FoundVm[]> {
  const states = await readVmsOfHosts(ledger, hosts, { drain: '', moveDisks: false, suspendInPlace: 'never' });
  const rows = z.array(VmRow).parse(
    await ledger.$queryRaw<unknown[]>`
      SELECT v.id, v."hostId" AS host, v."homeId", (extract(epoch FROM v."startedAt") * 1000)::float8 AS "startedMs", v.pinned, v.keep,
        COALESCE((SELECT l."startAt" IS NOT NULL FROM "Lease" l WHERE l.id = v."leaseId"), false) AS promised,
        COALESCE((SELECT jsonb_agg(extract(epoch FROM b.at) * 1000 ORDER BY b.at) FROM "BalanceMove" b
          WHERE b."vmId" = v.id AND b.at > ${new Date(nowMs - dayMs)}), '[]') AS "movedMs"
      FROM "Vm" v WHERE v."hostId" = ANY(${[...hosts]}) AND v.state NOT IN ('pending', 'removed')`,
  );
  const byId = new Map(rows.map((row) => [row.id as string, row]));
  return [...states].flatMap(([host, vms]) =>
    vms.flatMap((state) => {
      const row = byId.get(state.id);
      // One that is arriving is counted there, and not moved on.
      if (row === undefined || row.host !== host) return [];
      const image = state.image ?? null;
      const vm: BalanceVm = {
        id: state.id,
        host,
        vcpus: state.vcpus,
        memoryMiB: state.memoryMiB,
        load: loadOf(loads.get(host), state.id, state.vcpus),
        migration: { ...state.load, diskMiB: 0 },
        diskMiBPerS: diskRateOf(loads.get(host), state.id),
        home: row.homeId,
        image: image === null ? null : { id: image.id, mib: image.mib },
        startedAtMs: row.startedMs ?? nowMs,
        endsByMs: state.endsByMs,
        pinned: row.pinned,
        keep: row.keep,
        promisedHost: row.promised,
        unmovable: unmovableReason(state),
        movedAtMs: row.movedMs,
        ...(state.rules ?? { labelRules: [], groupRules: [] }),
      };
      return [{ vm, imageAt: image?.at ?? [] }];
    }),
  );
}

function diskRateOf(latest: LatestLoad | undefined, vm: string): number {
  const row = latest?.vms.get(vm);
  const at = (field: 'readMiBPerS' | 'writtenMiBPerS'): number => row?.[vmLoadFields.indexOf(field)] ?? 0;
  return at('readMiBPerS') + at('writtenMiBPerS');
}

function unmovableReason({ phase, suspended, paused, ended, template }: DrainVmState): string | null {
  if (template) return 'it becomes a template of its host';
  if (suspended === true || paused === true || ended === true) return 'it does not run';
  if (phase.kind === 'movable') return null;
  return 'why' in phase ? phase.why : `it is ${phase.kind}`;
}
