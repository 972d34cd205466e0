import { z } from 'zod';
import type { TaskId, VmId } from '../../../model/ids.ts';
import { taskStates, vmStates } from '../../../model/states.ts';
import { storedRules } from '../../placement/read-rules.ts';
import { idOf, listOf, refusal, resources } from '../../row-schemas.ts';

/** The row of readSite: everything that a plan of leases is made from. */

const epochS = z.number();
const hostId = z.string().min(1);

/** One element for each row, separated by spaces (site-columns.ts). */
const column = z.string();

/** A suspension, resumption or migration as the planner wrote it; a JSON column. */
const Operation = z.object({
  fromS: epochS,
  untilS: epochS,
  vms: z.array(z.object({ host: hostId, fromS: epochS, untilS: epochS })),
});

const LeaseVmRow = z.strictObject({
  id: idOf<VmId>(),
  generation: z.int().min(0),
  state: z.enum(vmStates),
  host: hostId.nullable(),
  home: hostId.nullable(),
  /** The migration under way, with its target as far as it is known. */
  migration: z.strictObject({ to: hostId.nullable() }).nullable(),
  vcpus: z.int().min(0),
  memoryMiB: z.int().min(0),
  diskMiB: z.int().min(0),
  image: z.string().nullable(),
  imageMiB: z.number().min(0),
});

export const LeaseRow = z.strictObject({
  id: idOf<string>(),
  owner: idOf<string>(),
  kind: z.enum(['reservation', 'bestEffort', 'immediate']),
  submittedAtS: epochS,
  durationS: z.number().min(0),
  priority: z.int(),
  preemptible: z.boolean(),
  startAtS: epochS.nullable(),
  plannedHosts: z.array(hostId),
  bound: z.boolean(),
  startedAtS: epochS.nullable(),
  runFromS: epochS.nullable(),
  leftS: z.number().nullable(),
  suspension: z.enum(['suspending', 'suspended', 'resuming']).nullable(),
  operation: Operation.nullable(),
  taskId: idOf<TaskId>().nullable(),
  taskState: z.enum(taskStates).nullable(),
  refusal: refusal.nullable(),
  hostCosts: z.record(z.string(), z.number()).nullable(),
  /** Of each of its VMs. */
  rules: storedRules,
  vms: z.array(LeaseVmRow).min(1),
});

/** The time that a lease took besides its own. */
const LeaseTiming = z.strictObject({
  leadMs: z.number(),
  /** null: it has not ended. */
  tailMs: z.number().nullable(),
  promised: z.boolean(),
  /** All of its VMs started from a template. */
  warm: z.boolean(),
});

export const SiteRow = z.strictObject({
  /** Of each host its values (site-columns.ts). */
  hosts: column.nullable(),
  vacant: listOf(z.strictObject({ host: hostId, fromS: epochS, untilS: epochS })),
  arriving: listOf(z.strictObject({ vm: idOf<VmId>(), host: hostId })),
  /** Of hosts that have any. */
  labels: z.record(hostId, z.record(z.string(), z.string())).nullable(),
  /** Of the groups of what waits or is suspended. */
  members: listOf(z.strictObject({ group: z.string(), host: hostId, vms: z.int().min(1) })),
  leases: listOf(LeaseRow),
  running: z
    .strictObject({
      host: column,
      vcpus: column,
      memoryMiB: column,
      diskMiB: column,
      runFromS: column,
      leftS: column,
      preemptible: column,
    })
    .nullable(),
  taken: listOf(z.strictObject({ host: hostId, each: resources })),
  listedUse: listOf(z.strictObject({ host: hostId, each: resources })),
  /** Images that all hosts which take new work have. */
  cachedEverywhere: listOf(z.string()),
  measured: listOf(LeaseTiming),
  warm: listOf(z.strictObject({ host: hostId, image: z.string(), vcpus: z.int(), memoryMiB: z.int() })),
});

export type SiteRow = z.infer<typeof SiteRow>;
export type LeaseRow = z.infer<typeof LeaseRow>;
