import { BerthError } from '../../model/errors.ts';
import type { HostId, ImageId, OwnerId, TaskId, VmId } from '../../model/ids.ts';
import { signUrl } from '../../model/signed-url.ts';
import type { TaskState } from '../../model/states.ts';
import type { Blob, ImageRef, NetworkRef, VmSpec } from '../../model/vm.ts';
import type { LedgerDeps, Transaction } from './deps.ts';

/** For how long a URL to a file holds, in seconds. */
export const fileLifetimeS = 3600;

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

interface HostRow {
  id: HostId;
  address: string;
  provider: string;
  /** It is up, and the image is in its cache. */
  hasImage: boolean;
}

interface StoredPart {
  file: string;
  sha256: string;
  sizeBytes: number;
}

/** A task with everything that its hosts need to know of it. */
export interface PlacedTask {
  id: TaskId;
  owner: OwnerId;
  state: TaskState;
  placed: boolean;
  spec: unknown;
  vms: VmRow[];
  image: { id: ImageId; name: string; digest: string; virtualMiB: number; cmdline: string; parts: Record<string, StoredPart> };
  network: { vni: number; cidr: string; gateway: string } | null;
  hosts: HostRow[];
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

/** A right to read one file of the repository. */
export function fileUrl(deps: LedgerDeps, file: string): string {
  const { BERTH_SIGNING_KEY: key, BERTH_REPOSITORY_URL: base } = deps.signing;
  return signUrl(key, base, 'GET', `/internal/files/${file}`, deps.clock(), fileLifetimeS);
}

function blob(deps: LedgerDeps, task: PlacedTask, name: string): Blob {
  const part = task.image.parts[name];
  if (part === undefined)
    throw new BerthError(
      'image-unknown',
      `The image ${task.image.name} (${task.image.id}) has no part ${name}: publish it again`,
    );
  return { sha256: part.sha256, sizeBytes: part.sizeBytes, url: fileUrl(deps, part.file) };
}

/** Nearest first: hosts of the same provider before others, each group in the order of ids. */
function imageFor(deps: LedgerDeps, task: PlacedTask, here: HostRow): ImageRef {
  const { id, name, digest, virtualMiB, cmdline } = task.image;
  const others = task.hosts.filter((host) => host.hasImage && host.id !== here.id);
  const near = others.filter((host) => host.provider === here.provider);
  const far = others.filter((host) => host.provider !== here.provider);
  return {
    id,
    name,
    digest,
    virtualMiB,
    cmdline,
    parts: { disk: blob(deps, task, 'disk'), kernel: blob(deps, task, 'kernel'), initrd: blob(deps, task, 'initrd') },
    peers: [...near, ...far].map((host) => host.address),
  };
}

function networkFor(task: PlacedTask, here: HostRow): NetworkRef {
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
    image: imageFor(deps, task, here),
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
