import { z } from 'zod';
import type { PrefetchTarget } from '../../contracts/ledger-placement.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import type { HostId, OwnerId, TaskId, VmId } from '../../model/ids.ts';
import { taskStates, vmStates } from '../../model/states.ts';
import { machineVersions } from '../../model/vm.ts';
import { ImageRow, imagePeers } from '../images/image-refs.ts';
import { idOf } from '../row-schemas.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

const PlacedVm = z.strictObject({
  id: idOf<VmId>(),
  name: z.string(),
  generation: z.int().min(0),
  state: z.enum(vmStates),
  hostId: idOf<HostId>().nullable(),
  homeId: idOf<HostId>().nullable(),
  vcpus: z.int().min(0),
  memoryMiB: z.int().min(0),
  diskMiB: z.int().min(0),
  rootMiB: z.int().min(0).nullable(),
  extraDisksMiB: z.array(z.int().min(0)),
  address: z.string().nullable(),
  mac: z.string().nullable(),
  machine: z.literal(machineVersions),
  /** The generation of the migration that has begun and is not over; its workflow is named by it. */
  migrating: z.int().min(0).nullable(),
});

const PlacedHost = z.strictObject({
  id: idOf<HostId>(),
  address: z.string(),
  /** The host is up, and has the image in its cache. */
  hasImage: z.boolean(),
});

/** VMs that were placed together, as far as their saga decides by it. */
const PlacedVms = z.strictObject({
  task: idOf<TaskId>().nullable(),
  /** It belongs neither to a task nor to a build. */
  standalone: z.boolean(),
  owner: idOf<OwnerId>(),
  vms: z.array(PlacedVm).min(1),
  image: ImageRow,
  /** Where the VMs are and have their homes, and those that were asked for. */
  hosts: z.array(PlacedHost),
});

/** VMs, with what the host of one of them needs besides. */
const PlacedOnHost = PlacedVms.extend({
  imagePeers: z.array(z.string()),
  /** The owner's standalone VMs: all its guests can resolve their names. */
  siblings: z.array(z.strictObject({ name: z.string(), address: z.string() })),
  network: z.strictObject({ vni: z.int(), cidr: z.string(), gateway: z.string() }).nullable(),
});

const PlacedTask = PlacedVms.extend({
  id: idOf<TaskId>(),
  state: z.enum(taskStates),
  placed: z.boolean(),
  /** As its client sent it. */
  spec: z.unknown(),
  /** The promise of its lease, and the hosts that the plan has for it. */
  startAt: z.string().nullable(),
  endAt: z.string().nullable(),
  durationS: z.number().min(0),
  plannedHosts: z.array(idOf<HostId>()),
});

export type PlacedVm = z.infer<typeof PlacedVm>;
export type PlacedVms = z.infer<typeof PlacedVms>;
export type PlacedOnHost = z.infer<typeof PlacedOnHost>;
export type PlacedTask = z.infer<typeof PlacedTask>;

/** Reads a task with its VMs, their image and network, and the hosts of both and of its promise. Throws not-found. */
export async function readPlacedTask(tx: Transaction, id: TaskId): Promise<PlacedTask> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT t.id, t.state, t."placedAt" IS NOT NULL AS placed, t.spec,
      to_json(l."startAt") #>> '{}' AS "startAt", to_json(l."endAt") #>> '{}' AS "endAt", l."durationS", l."plannedHosts", ${placedVmColumns(Prisma.sql`l."plannedHosts"`)}
    FROM "Task" t JOIN "Lease" l ON l.id = t."leaseId" JOIN "Vm" one ON one."taskId" = t.id AND one.node = 0
    WHERE t.id = ${id}`;
  return PlacedTask.parse(oneOrNotFound(rows, `task ${id} with VMs`));
}

/** The hosts that need a promised lease's image before its start; null where the lease has no hosts, or no promise. */
export function prefetchFor({ plannedHosts, image, hosts }: PlacedVms & { plannedHosts: HostId[] }): PrefetchTarget | null {
  const wanted = hosts.filter(({ id }) => plannedHosts.includes(id));
  if (wanted.length === 0) return null;
  return { image: image.id, hosts: wanted.map(({ id }) => id), complete: wanted.every(({ hasImage }) => hasImage) };
}

/**
 * Reads the same for a VM and those of its task, or for a standalone VM, with what its host needs. Throws not-found.
 * @param at another host than its own, for which it is read. @param hosts further hosts to read
 */
export async function readPlacedVm(
  tx: Transaction,
  id: VmId,
  { at = null, hosts = [] }: { at?: HostId | null; hosts?: readonly (HostId | null)[] } = {},
): Promise<PlacedOnHost> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT ${placedVmColumns(Prisma.sql`${[...hosts, at].filter((host) => host !== null)}::text[]`)}, ${networkColumns},
      ${imagePeers(Prisma.sql`one."imageId"`, Prisma.sql`COALESCE(${at}::text, one."hostId")`)} AS "imagePeers"
    FROM "Vm" one WHERE one.id = ${id}`;
  return PlacedOnHost.parse(oneOrNotFound(rows, `VM ${id}`));
}

/** Limit of the names in a guest's /etc/hosts. */
const maxSiblingNames = 256;

/** Columns of PlacedOnHost besides: hundreds of an owner's VMs, which no step but the making of a VM needs. */
const networkColumns = Prisma.sql`
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('name', s.name, 'address', s.address) ORDER BY s.name), '[]') FROM (
        SELECT name, address FROM "Vm" WHERE "ownerId" = one."ownerId" AND "order" IS NOT NULL
          AND state NOT IN ('pending', 'removed') AND address IS NOT NULL ORDER BY name LIMIT ${maxSiblingNames}) s) AS siblings,
      (SELECT jsonb_build_object('vni', n.vni, 'cidr', n.cidr, 'gateway', n.gateway)
       FROM "Network" n WHERE n."ownerId" = one."ownerId") AS network`;

/** Columns of PlacedVms; `one` is one of the VMs. @param more ids of further hosts */
const placedVmColumns = (more: Prisma.Sql): Prisma.Sql => Prisma.sql`
      one."taskId" AS task, one."order" IS NOT NULL AS standalone, one."ownerId" AS owner,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', v.id, 'name', v.name, 'generation', v.generation,
        'state', v.state, 'hostId', v."hostId", 'homeId', v."homeId", 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'diskMiB', v."diskMiB",
        'rootMiB', v."rootMiB", 'extraDisksMiB', v."extraDisksMiB",
        'address', v.address, 'mac', v.mac, 'machine', v.machine, 'migrating', (SELECT m.generation FROM "Migration" m
          WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck') AND (m.reserved OR m."committedAt" IS NOT NULL))) ORDER BY v.node), '[]')
       FROM "Vm" v WHERE v.id = one.id OR v."taskId" = one."taskId") AS vms,
      (SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'cloudInit', i."cloudInit", 'parts', i.parts) FROM "Image" i WHERE i.id = one."imageId") AS image,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', h.id, 'address', h.address, 'hasImage', h.state = 'up' AND EXISTS (
          SELECT FROM "HostImage" x WHERE x."hostId" = h.id AND x."imageId" = one."imageId")) ORDER BY h.id), '[]')
       FROM "Host" h WHERE h.id IN (SELECT unnest(${more}) UNION
         SELECT unnest(ARRAY[v."hostId", v."homeId"]) FROM "Vm" v WHERE v.id = one.id OR v."taskId" = one."taskId")) AS hosts`;
