import { z } from 'zod';
import { reservedAccount } from './input/account-name.ts';
import { folderAmongFiles, unusableGuestPath } from './input/guest-path.ts';
import { unusableHostName } from './input/host-name.ts';
import { sshKeyProblem, sshKeyTypes } from './input/ssh-key.ts';
import { MarketTerms } from './market/offer.ts';
import { PortRequests } from './network/published-port.ts';
import { optionalRules, ruledFields, unpromised } from './placement/rules.ts';
import { quoteName, ResourcesSpec, rfc3339Time, taskLimits } from './task.ts';

/** Bounds on what a caller can ask of a VM that stands alone. */
export const vmLimits = {
  rootMiB: 1_048_576,
  swapMiB: 65_536,
  /** /dev/vdc to /dev/vdh. */
  extraDisks: 6,
  extraDiskMiB: 1_048_576,
  files: 100,
  commands: 32,
  commandBytes: 4096,
  keyBytes: 4096,
} as const;

export const restartPolicies = ['never', 'always'] as const;

/** A DNS label: it is the guest's host name. */
const vmName = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, {
  error: 'expected a DNS label: lower-case letters, digits and "-", at most 63, no "-" at either end',
});

const sshKey = z
  .string()
  .max(vmLimits.keyBytes)
  .regex(/^[ -~]+$/, { error: 'expected one public key, as a line of authorized_keys without options', abort: true })
  .meta({ description: `As a line of authorized_keys without options: ${sshKeyTypes.join(', ')}` });

// biome-ignore lint/suspicious/noControlCharactersInRegex: refusing them is the point
const isGuestPath = (path: string): boolean => /^(\/[^/\u0000-\u0020\u007f]{1,255})+$/.test(path) && !/\/\.\.?(\/|$)/.test(path);

export const VmUser = z
  .strictObject({
    name: z.string().regex(/^[a-z_][a-z0-9_-]{0,30}$/, { error: 'expected a user name: a-z, 0-9, "_" and "-", at most 31' }),
    sshKey,
  })
  .meta({ id: 'VmUser', description: 'Made in the guest, with this key for ssh; `root` is there already' });

export const VmFile = z
  .strictObject({
    path: z.string().max(1024).refine(isGuestPath, { error: 'expected an absolute path without spaces, "." and ".." parts' }),
    file: z.string().min(1).max(64).meta({ description: 'Id of a file in the repository' }),
    mode: z
      .string()
      .regex(/^0[0-7]{3}$/, { error: 'expected four octal digits, such as 0644' })
      .default('0644'),
  })
  .meta({ id: 'VmFile' });

export const VmLease = z
  .strictObject({
    kind: z.enum(['bestEffort', 'reservation', 'immediate']).default('bestEffort'),
    startAt: rfc3339Time.optional().meta({ description: 'Of a reservation', example: '2026-11-21T12:00:00Z' }),
    durationS: z
      .int()
      .min(1)
      .max(taskLimits.durationS)
      .optional()
      .meta({ description: 'Without it, until it is deleted: of best effort alone' }),
  })
  .refine((lease) => (lease.kind === 'reservation') === (lease.startAt !== undefined), {
    path: ['startAt'],
    error: 'expected a start for a reservation, and for nothing else',
  })
  .refine((lease) => lease.kind === 'bestEffort' || lease.durationS !== undefined, {
    path: ['durationS'],
    error: 'expected a duration for a lease with a fixed start',
  })
  .meta({ id: 'VmLease' });

/** What the ledger keeps of a request. Rows of earlier versions have to remain readable: what is refused is in VmRequest. */
export const StoredVmRequest = z.strictObject({
  name: vmName,
  image: z.string().min(1).max(128).meta({ description: 'Name of an image', example: 'debian-12' }),
  resources: ResourcesSpec.default({ vcpus: 1, memoryMiB: 256, diskMiB: 512 }).meta({
    description: 'diskMiB is the data disk, mounted at /home/task',
  }),
  rootMiB: z
    .int()
    .min(64)
    .max(vmLimits.rootMiB)
    .optional()
    .meta({ description: 'What the root file system is grown to, where the image is smaller' }),
  swapMiB: z.int().min(0).max(vmLimits.swapMiB).default(0),
  extraDisksMiB: z
    .array(z.int().min(1).max(vmLimits.extraDiskMiB))
    .max(vmLimits.extraDisks)
    .default([])
    .meta({ description: 'Sizes of further disks: empty, without a file system, /dev/vdc and so on in the guest' }),
  lease: VmLease.default({ kind: 'bestEffort' }),
  restart: z.enum(restartPolicies).default('never').meta({
    description:
      'Whether it is booted again after its host was restarted, and after a crash that is not within a minute of its start. A guest that powers itself off stays off',
  }),
  user: VmUser.optional(),
  files: z
    .array(VmFile)
    .max(vmLimits.files)
    .refine((files) => new Set(files.map(({ path }) => path)).size === files.length, { error: 'expected each path once' })
    .default([]),
  firstBoot: z
    .array(z.string().min(1).max(vmLimits.commandBytes))
    .max(vmLimits.commands)
    .default([])
    .meta({ description: 'Lines for /bin/sh, run once as root after the files are there' }),
  quote: quoteName,
  market: MarketTerms.optional(),
  ports: PortRequests.meta({ description: 'Published from its start on, as POST /v1/vms/{id}/ports does' }),
  ...optionalRules,
});

type StoredVmRequest = z.infer<typeof StoredVmRequest>;

/** What is well-formed, and would not do in a guest what its caller expects. */
function* unusableFields(request: StoredVmRequest): Iterable<{ path: (string | number)[]; message: string }> {
  const { name, user, files, lease, quote, market } = request;
  if (market !== undefined && lease.kind !== 'bestEffort')
    yield { path: ['market'], message: 'expected none for a lease with a fixed start' };
  if (lease.kind !== 'bestEffort') for (const field of ruledFields(request)) yield { path: [field], message: unpromised };
  if (market !== undefined && quote !== undefined) yield { path: ['market'], message: 'expected a quote or offers, not both' };
  const host = unusableHostName(name);
  if (host !== null) yield { path: ['name'], message: `expected a host name: this one ${host}` };
  if (user !== undefined) {
    const account = reservedAccount(user.name);
    if (account !== null) yield { path: ['user', 'name'], message: `expected another name: this one ${account}` };
    const key = sshKeyProblem(user.sshKey);
    if (key !== null) yield { path: ['user', 'sshKey'], message: key };
  }
  for (const [index, { path }] of files.entries()) {
    const why = unusableGuestPath(path);
    if (why !== null) yield { path: ['files', index, 'path'], message: `expected the path of a file: this one ${why}` };
  }
  const folder = folderAmongFiles(files.map(({ path }) => path));
  if (folder !== null) yield { path: ['files', folder, 'path'], message: 'expected no path to be a folder of another' };
}

/** What a caller can ask for. */
export const VmRequest = StoredVmRequest.superRefine((request, context) => {
  for (const { path, message } of unusableFields(request)) context.addIssue({ code: 'custom', path, message });
}).meta({ id: 'VmOrder' });
export type VmRequest = z.infer<typeof VmRequest>;

/** Where a VM's files are staged on its data disk, by their number; and where the guest finds all of them. */
export const stagedFile = (index: number): string => `.berth/${index}`;
export const stagedFiles = '/home/task/.berth';

/** The length of a lease without an end, in seconds: 68 years, the most that its column holds. */
export const unboundedDurationS = 2 ** 31 - 1;

/** What can be asked of a VM that stands alone, from which state, and where it leads. */
export const vmOperations = {
  // Also from the state that they lead to: a host's change of it takes a second to reach the ledger.
  pause: { from: ['running', 'paused'], to: 'paused' },
  resume: { from: ['paused', 'running'], to: 'running' },
  suspend: { from: ['running', 'paused'], to: 'suspended' },
  restore: { from: ['suspended'], to: 'running' },
  reboot: { from: ['running', 'paused', 'stopped', 'crashed'], to: null },
} as const;

export type VmOperation = keyof typeof vmOperations;
export const vmOperationNames = Object.keys(vmOperations) as [VmOperation, ...VmOperation[]];
