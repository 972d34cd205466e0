import type { PrefetchTarget } from '../../contracts/ledger-placement.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId, OwnerId, TaskId, VmId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import type { NetworkRef, VmSpec } from '../../model/vm.ts';
import { type ImageHolder, type ImageRow, imageRef } from '../images/image-refs.ts';
import { oneOrNotFound } from '../rows.ts';
import type { LedgerDeps, Transaction } from '../transaction.ts';

interface PlacedVm {
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

/** VMs that were placed together, with everything that their hosts need of them. */
interface PlacedVms {
  task: TaskId | null;
  /** It belongs neither to a task nor to a build. */
  standalone: boolean;
  owner: OwnerId;
  vms: PlacedVm[];
  image: ImageRow;
  /** The owner's standalone VMs: all its guests can resolve their names. */
  siblings: { name: string; address: string }[];
  network: { vni: number; cidr: string; gateway: string } | null;
  hosts: ImageHolder[];
}

export interface PlacedTask extends PlacedVms {
  id: TaskId;
  state: TaskState;
  placed: boolean;
  spec: unknown;
  /** The promise of its lease, and the hosts that the plan has for it. */
  startAt: string | null;
  endAt: string | null;
  durationS: number;
  plannedHosts: HostId[];
}

/** Reads a task with its VMs, their image and network, and the site's hosts in one statement. Throws not-found. */
export async function readPlacedTask(tx: Transaction, id: TaskId): Promise<PlacedTask> {
  const rows = await tx.$queryRaw<PlacedTask[]>`
    SELECT t.id, t.state, t."placedAt" IS NOT NULL AS placed, t.spec,
      to_json(l."startAt") #>> '{}' AS "startAt", to_json(l."endAt") #>> '{}' AS "endAt", l."durationS", l."plannedHosts", ${placedVmColumns}
    FROM "Task" t JOIN "Lease" l ON l.id = t."leaseId" JOIN "Vm" one ON one."taskId" = t.id AND one.node = 0
    WHERE t.id = ${id}`;
  return oneOrNotFound(rows, `task ${id} with VMs`);
}

/** The hosts that need a promised lease's image before its start; null where the lease has no hosts, or no promise. */
export function prefetchFor({ plannedHosts, image, hosts }: PlacedVms & { plannedHosts: HostId[] }): PrefetchTarget | null {
  const wanted = hosts.filter(({ id }) => plannedHosts.includes(id));
  if (wanted.length === 0) return null;
  return { image: image.id, hosts: wanted.map(({ id }) => id), complete: wanted.every(({ hasImage }) => hasImage) };
}

/** Reads the same for a VM and those of its task, or for a standalone VM. Throws not-found. */
export async function readPlacedVm(tx: Transaction, id: VmId): Promise<PlacedVms> {
  const rows = await tx.$queryRaw<PlacedVms[]>`SELECT ${placedVmColumns} FROM "Vm" one WHERE one.id = ${id}`;
  return oneOrNotFound(rows, `VM ${id}`);
}

/** Limit of the names in a guest's /etc/hosts. */
const maxSiblingNames = 256;

/** Columns of PlacedVms; `one` is one of the VMs. */
const placedVmColumns = Prisma.sql`
      one."taskId" AS task, one."order" IS NOT NULL AS standalone, one."ownerId" AS owner,
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

/** The VMs of the same task first: their names take precedence. */
function neighboursOf({ vms, siblings }: PlacedVms): VmSpec['neighbours'] {
  const own = vms.flatMap(({ name, address }) => (address === null ? [] : [{ name, address }]));
  return [...own, ...siblings.filter((one) => own.every(({ name }) => name !== one.name))];
}

function vmSpec(deps: LedgerDeps, placed: PlacedVms, vm: PlacedVm): VmSpec {
  const host = placed.hosts.find((host) => host.id === vm.hostId);
  if (host === undefined || vm.address === null || vm.mac === null)
    throw new BerthError('conflict', `VM ${vm.id} is ${vm.state}: it has no host, so there is nothing to make`);
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
    onReboot: placed.standalone ? 'restart' : 'destroy',
    neighbours: neighboursOf(placed),
  };
}

/** What the host of each VM needs to make it, with fresh URLs. Throws conflict when one of them has no host. */
export function vmSpecs(deps: LedgerDeps, placed: PlacedVms): VmSpec[] {
  return placed.vms.map((vm) => vmSpec(deps, placed, vm));
}

/** The same for one of the VMs. */
export function specOf(deps: LedgerDeps, placed: PlacedVms, id: VmId): VmSpec {
  const vm = placed.vms.find((one) => one.id === id);
  if (vm === undefined) throw new BerthError('internal', `BUG: VM ${id} is none of those that were placed with it`);
  return vmSpec(deps, placed, vm);
}

export async function readVmSpec(deps: LedgerDeps, tx: Transaction, id: VmId): Promise<VmSpec> {
  return specOf(deps, await readPlacedVm(tx, id), id);
}
