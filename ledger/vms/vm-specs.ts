import type { PrefetchTarget } from '../../contracts/ledger-placement.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId, OwnerId, TaskId, VmId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import type { NetworkRef, VmSpec } from '../../model/vm.ts';
import { type ImageHolder, type ImageRow, imageRef } from '../images/image-refs.ts';
import type { LedgerDeps, Transaction } from '../transaction.ts';

interface VmRow {
  id: VmId;
  name: string;
  node: number;
  generation: number;
  state: string;
  hostId: HostId | null;
  homeId: HostId | null;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
  rootMiB: number | null;
  extraDisksMiB: number[];
  address: string | null;
  mac: string | null;
}

/** VMs that were placed together, with everything that their hosts need to know of them. */
export interface PlacedVms {
  task: TaskId | null;
  /** The VM stands alone: it is no task's, and no build's. */
  lasts: boolean;
  owner: OwnerId;
  vms: VmRow[];
  image: ImageRow;
  /** Of the owner's VMs that stand alone: names that all its guests can resolve. */
  siblings: { name: string; address: string }[];
  network: { vni: number; cidr: string; gateway: string } | null;
  hosts: ImageHolder[];
}

export interface PlacedTask extends PlacedVms {
  id: TaskId;
  state: TaskState;
  placed: boolean;
  spec: unknown;
  /** The promise of its lease, and the hosts on which it is planned. */
  startAt: string | null;
  endAt: string | null;
  durationS: number;
  plannedHosts: HostId[];
}

/** Reads a task, its VMs, their image and network and the site's hosts in one statement. Throws not-found. */
export async function readPlacedTask(tx: Transaction, id: TaskId): Promise<PlacedTask> {
  const rows = await tx.$queryRaw<PlacedTask[]>`
    SELECT t.id, t.state, t."placedAt" IS NOT NULL AS placed, t.spec,
      to_json(l."startAt") #>> '{}' AS "startAt", to_json(l."endAt") #>> '{}' AS "endAt", l."durationS", l."plannedHosts", ${placedVmColumns}
    FROM "Task" t JOIN "Lease" l ON l.id = t."leaseId" JOIN "Vm" one ON one."taskId" = t.id AND one.node = 0
    WHERE t.id = ${id}`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no task ${id} with VMs in the ledger`);
  return rows[0];
}

/** Where a promised lease's image should be before its start; null where it has no hosts, or no promise. */
export function prefetchFor({ plannedHosts, image, hosts }: PlacedVms & { plannedHosts: HostId[] }): PrefetchTarget | null {
  const wanted = hosts.filter(({ id }) => plannedHosts.includes(id));
  if (wanted.length === 0) return null;
  return { image: image.id, hosts: wanted.map(({ id }) => id), complete: wanted.every(({ hasImage }) => hasImage) };
}

/** The same of a VM and those of its task, or of a VM that stands alone. Throws not-found. */
export async function readPlacedVm(tx: Transaction, id: VmId): Promise<PlacedVms> {
  const rows = await tx.$queryRaw<PlacedVms[]>`SELECT ${placedVmColumns} FROM "Vm" one WHERE one.id = ${id}`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
  return rows[0];
}

/** So many names go into a guest's /etc/hosts. */
const maxSiblingNames = 256;

/** Columns of PlacedVms; `one` is one of the VMs. */
const placedVmColumns = Prisma.sql`
      one."taskId" AS task, one."order" IS NOT NULL AS lasts, one."ownerId" AS owner,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', v.id, 'name', v.name, 'node', v.node, 'generation', v.generation,
        'state', v.state, 'hostId', v."hostId", 'homeId', v."homeId", 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'diskMiB', v."diskMiB",
        'rootMiB', v."rootMiB", 'extraDisksMiB', v."extraDisksMiB",
        'address', v.address, 'mac', v.mac) ORDER BY v.node), '[]')
       FROM "Vm" v WHERE v.id = one.id OR v."taskId" = one."taskId") AS vms,
      (SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'cloudInit', i."cloudInit", 'parts', i.parts) FROM "Image" i WHERE i.id = one."imageId") AS image,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('name', s.name, 'address', s.address) ORDER BY s.name), '[]') FROM (
        SELECT name, address FROM "Vm" WHERE "ownerId" = one."ownerId" AND "order" IS NOT NULL
          AND state NOT IN ('pending', 'removed') AND address IS NOT NULL ORDER BY name LIMIT ${maxSiblingNames}) s) AS siblings,
      (SELECT jsonb_build_object('vni', n.vni, 'cidr', n.cidr, 'gateway', n.gateway)
       FROM "Network" n WHERE n."ownerId" = one."ownerId") AS network,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', h.id, 'address', h.address, 'provider', h.provider,
        'hasImage', h.state = 'up' AND EXISTS (SELECT FROM "HostImage" x WHERE x."hostId" = h.id AND x."imageId" = one."imageId"))
        ORDER BY h.id), '[]') FROM "Host" h) AS hosts`;

function networkFor(placed: PlacedVms, here: ImageHolder): NetworkRef {
  if (placed.network === null) throw new BerthError('internal', `BUG: VMs of ${placed.owner} were placed without a network`);
  return { ...placed.network, peers: placed.hosts.filter((host) => host.id !== here.id).map((host) => host.address) };
}

/** The VMs of its task first: their names are what the task was promised. */
function neighboursOf({ vms, siblings }: PlacedVms): VmSpec['neighbours'] {
  const own = vms.flatMap(({ name, address }) => (address === null ? [] : [{ name, address }]));
  return [...own, ...siblings.filter((one) => own.every(({ name }) => name !== one.name))];
}

function vmSpec(deps: LedgerDeps, placed: PlacedVms, vm: VmRow): VmSpec {
  const host = placed.hosts.find((host) => host.id === vm.hostId);
  if (host === undefined || vm.address === null || vm.mac === null)
    throw new BerthError('conflict', `VM ${vm.id} is ${vm.state}: it has no place to describe`);
  return {
    id: vm.id,
    owner: placed.owner,
    name: vm.name,
    generation: vm.generation,
    host: host.id,
    home: vm.homeId ?? host.id,
    image: imageRef(deps, placed.image, placed.hosts, host.id),
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    rootMiB: vm.rootMiB ?? placed.image.virtualMiB,
    extraDisksMiB: vm.extraDisksMiB,
    network: networkFor(placed, host),
    address: vm.address,
    mac: vm.mac,
    onReboot: placed.lasts ? 'restart' : 'destroy',
    neighbours: neighboursOf(placed),
  };
}

/** What each VM's host needs to make it, with fresh URLs. Throws conflict when one of them has no place. */
export function vmSpecs(deps: LedgerDeps, placed: PlacedVms): VmSpec[] {
  return placed.vms.map((vm) => vmSpec(deps, placed, vm));
}
