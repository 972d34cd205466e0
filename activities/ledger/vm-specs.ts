import { BerthError } from '../../model/errors.ts';
import type { HostId, OwnerId, TaskId, VmId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import type { NetworkRef, VmSpec } from '../../model/vm.ts';
import type { LedgerDeps, Transaction } from './deps.ts';
import { type ImageHolder, type ImageRow, imageRef } from './image-refs.ts';

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
  address: string | null;
  mac: string | null;
}

/** A task with everything that its hosts need to know of it. */
export interface PlacedTask {
  id: TaskId;
  owner: OwnerId;
  state: TaskState;
  placed: boolean;
  spec: unknown;
  vms: VmRow[];
  image: ImageRow;
  network: { vni: number; cidr: string; gateway: string } | null;
  hosts: ImageHolder[];
}

/** Reads a task, its VMs, their image and network and the site's hosts in one statement. Throws not-found. */
export async function readPlaced(tx: Transaction, id: TaskId): Promise<PlacedTask> {
  const rows = await tx.$queryRaw<PlacedTask[]>`
    SELECT t.id, t."ownerId" AS owner, t.state, t."placedAt" IS NOT NULL AS placed, t.spec,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', v.id, 'name', v.name, 'node', v.node, 'generation', v.generation,
        'state', v.state, 'hostId', v."hostId", 'homeId', v."homeId", 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'diskMiB', v."diskMiB",
        'address', v.address, 'mac', v.mac) ORDER BY v.node), '[]') FROM "Vm" v WHERE v."taskId" = t.id) AS vms,
      (SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'parts', i.parts) FROM "Image" i WHERE i.id = one."imageId") AS image,
      (SELECT jsonb_build_object('vni', n.vni, 'cidr', n.cidr, 'gateway', n.gateway)
       FROM "Network" n WHERE n."ownerId" = t."ownerId") AS network,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', h.id, 'address', h.address, 'provider', h.provider,
        'hasImage', h.state = 'up' AND EXISTS (SELECT FROM "HostImage" x WHERE x."hostId" = h.id AND x."imageId" = one."imageId"))
        ORDER BY h.id), '[]') FROM "Host" h) AS hosts
    FROM "Task" t JOIN "Vm" one ON one."taskId" = t.id AND one.node = 0
    WHERE t.id = ${id}`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no task ${id} with VMs in the ledger`);
  return rows[0];
}

function networkFor(task: PlacedTask, here: ImageHolder): NetworkRef {
  if (task.network === null) throw new BerthError('internal', `BUG: task ${task.id} was placed without a network`);
  return { ...task.network, peers: task.hosts.filter((host) => host.id !== here.id).map((host) => host.address) };
}

function vmSpec(deps: LedgerDeps, task: PlacedTask, vm: VmRow): VmSpec {
  const here = task.hosts.find((host) => host.id === vm.hostId);
  if (here === undefined || vm.address === null || vm.mac === null)
    throw new BerthError('conflict', `VM ${vm.id} of task ${task.id} is ${vm.state}: it has no place to describe`);
  return {
    id: vm.id,
    owner: task.owner,
    name: vm.name,
    generation: vm.generation,
    host: here.id,
    home: vm.homeId ?? here.id,
    image: imageRef(deps, task.image, task.hosts, here.id),
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    network: networkFor(task, here),
    address: vm.address,
    mac: vm.mac,
    neighbours: task.vms.flatMap(({ name, address }) => (address === null ? [] : [{ name, address }])),
  };
}

/** What each VM's host needs to make it, with fresh URLs. Throws conflict when one of them has no place. */
export function vmSpecs(deps: LedgerDeps, task: PlacedTask): VmSpec[] {
  return task.vms.map((vm) => vmSpec(deps, task, vm));
}
