import { z } from 'zod';
import type { ErrorCode } from './errors.ts';
import { folderAmongFiles } from './input/guest-path.ts';
import { MarketTerms } from './market/offer.ts';
import { PortRequests } from './network/published-port.ts';
import { manifestPath } from './outputs/manifest.ts';
import { patternProblem } from './outputs/pattern-syntax.ts';
import { optionalRules } from './placement/rules.ts';
import type { TaskState } from './states.ts';

/** Bounds on everything a caller can ask of a task. */
export const taskLimits = {
  nameChars: 128,
  commandWords: 256,
  commandBytes: 64 * 1024,
  envEntries: 128,
  envBytes: 32 * 1024,
  inputs: 1000,
  outputs: 100,
  pathBytes: 512,
  vcpus: 64,
  memoryMiB: 262_144,
  diskMiB: 1_048_576,
  nodes: 64,
  timeoutS: 7 * 24 * 3600,
  durationS: 30 * 24 * 3600,
} as const;

/** A path inside /home/task: relative, no empty, `.` or `..` part, no control characters. */
export function isTaskPath(path: string): boolean {
  if (path === '' || Buffer.byteLength(path) > taskLimits.pathBytes) return false;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: refusing them is the point
  if (/[\u0000-\u001f\u007f\\]/.test(path)) return false;
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= 255);
}

const taskPath = z
  .string()
  .refine(isTaskPath, { error: 'expected a relative path inside /home/task without empty, "." or ".." parts, at most 512 bytes' })
  .meta({ description: 'A path relative to /home/task', example: 'in/words' });

const outputPattern = z
  .string()
  .superRefine((text, context) => {
    const problem = patternProblem(text);
    if (problem !== null) context.addIssue({ code: 'custom', message: problem });
  })
  .meta({ description: 'A glob pattern relative to /home/task; docs/outputs.md has its syntax', example: 'out/*' });

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, { error: 'expected 64 lower-case hexadecimal digits' });

export const TaskInput = z
  .strictObject({
    path: taskPath,
    file: z.string().min(1).max(64).optional().meta({ description: 'Id of a file in the repository' }),
    url: z
      .url({ protocol: /^https?$/, error: 'expected an http or https URL' })
      .max(2048)
      .optional(),
    sha256: sha256.optional(),
    mode: z
      .string()
      .regex(/^0[0-7]{3}$/, { error: 'expected four octal digits, such as 0755' })
      .default('0644')
      .meta({ description: 'Its permissions in the guest; 0755: it may be executed' }),
  })
  .refine((input) => (input.file === undefined) !== (input.url === undefined), {
    error: 'expected exactly one of file and url',
  })
  .meta({ id: 'TaskInput', oneOf: [{ required: ['file'] }, { required: ['url'] }] });

export const ResourcesSpec = z
  .strictObject({
    vcpus: z.int().min(1).max(taskLimits.vcpus).default(1),
    memoryMiB: z.int().min(128).max(taskLimits.memoryMiB).default(256),
    diskMiB: z
      .int()
      .min(16)
      .max(taskLimits.diskMiB)
      .default(512)
      .meta({ description: 'Size of the data disk at /home/task, in MiB' }),
  })
  .meta({ id: 'Resources' });

export const rfc3339Time = z.iso.datetime({ offset: true, error: 'expected a time as in RFC 3339' });

export const leaseFields = z.strictObject({
  kind: z.enum(['bestEffort', 'reservation', 'immediate']).default('bestEffort'),
  startAt: rfc3339Time.optional().meta({ description: 'Of a reservation', example: '2026-11-21T12:00:00Z' }),
  durationS: z.int().min(1).max(taskLimits.durationS).default(3600).meta({
    description: 'How long its VMs may run, from when they answer; what it takes to make and remove them is not counted',
  }),
  priority: z
    .int()
    .min(-100)
    .max(100)
    .optional()
    .meta({ description: 'Higher goes first in the queue; 0 unless said, and at most that for clients' }),
  preemptible: z
    .boolean()
    .optional()
    .meta({ description: 'Whether best-effort work may be suspended for a reservation; true unless said' }),
  deadline: rfc3339Time.optional().meta({ description: 'Best effort: by when it must surely have ended' }),
});

/** Whether a lease of its kind has the times that it needs, and no others. */
export function* wrongTimes({
  kind,
  startAt,
  deadline,
}: {
  kind: string;
  startAt?: string | undefined;
  deadline?: string | undefined;
}) {
  if ((kind === 'reservation') !== (startAt !== undefined))
    yield { path: ['startAt'], message: 'expected a start for a reservation, and for nothing else' };
  if (kind !== 'bestEffort' && deadline !== undefined)
    yield { path: ['deadline'], message: 'expected a deadline for best effort only' };
}

/**
 * The right to resources for a time. A `reservation` starts at `startAt`, on the second, for its whole duration, or is
 * refused at once; an `immediate` one as soon as its VMs can be there at all. `bestEffort` is queued, fills gaps, and is
 * suspended for reservations if it may be; with a `deadline` it gets a fixed start that meets it, or is refused.
 */
export const LeaseSpec = leaseFields
  .superRefine((lease, context) => {
    for (const { path, message } of wrongTimes(lease)) context.addIssue({ code: 'custom', path, message });
  })
  .meta({ id: 'Lease' });
export type LeaseSpec = z.infer<typeof LeaseSpec>;

export const envName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, { error: 'expected a name of letters, digits and _' });
// biome-ignore lint/suspicious/noControlCharactersInRegex: a NUL ends a C string
export const noNul = (text: string) => !/\u0000/.test(text);

export const quoteName = z.string().min(1).max(64).optional().meta({
  description: 'Id of a quote: the order is billed at its prices, and never above its total, or refused',
});

export const TaskSpec = z
  .strictObject({
    name: z
      .string()
      .min(1)
      .max(taskLimits.nameChars)
      .regex(/^[A-Za-z0-9][A-Za-z0-9._ -]*$/, { error: 'expected letters, digits, space, ".", "_" and "-"' })
      .default('task'),
    image: z.string().min(1).max(128).meta({ description: 'Name of an image', example: 'debian-12' }),
    command: z
      .array(z.string().refine(noNul, { error: 'expected no NUL character' }))
      .min(1)
      .max(taskLimits.commandWords)
      .refine((words) => words[0] !== '', { error: 'expected a program as the first word' })
      .refine((words) => words.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0) <= taskLimits.commandBytes, {
        error: `expected at most ${taskLimits.commandBytes} bytes in all`,
      })
      .meta({ description: 'argv; no shell is involved', example: ['sh', '-c', 'wc -l in/words > out/count'] }),
    env: z
      .record(envName, z.string().refine(noNul, { error: 'expected no NUL character' }))
      .refine((env) => Object.keys(env).length <= taskLimits.envEntries, {
        error: `expected at most ${taskLimits.envEntries} variables`,
      })
      .refine(
        (env) => Object.entries(env).reduce((sum, [k, v]) => sum + k.length + Buffer.byteLength(v) + 2, 0) <= taskLimits.envBytes,
        {
          error: `expected at most ${taskLimits.envBytes} bytes in all`,
        },
      )
      .default({}),
    inputs: z
      .array(TaskInput)
      .max(taskLimits.inputs)
      .refine((inputs) => new Set(inputs.map((i) => i.path)).size === inputs.length, { error: 'expected each path once' })
      .refine((inputs) => folderAmongFiles(inputs.map(({ path }) => path)) === null, {
        error: 'expected no path to be a folder of another',
      })
      .default([]),
    outputs: z
      .array(outputPattern)
      .max(taskLimits.outputs)
      .refine((patterns) => patterns.length === 0 || patterns.some((pattern) => !pattern.startsWith('!')), {
        error: 'expected a pattern that selects something: those with "!" only exclude',
      })
      .default([])
      .meta({
        description:
          'What is kept of /home/task: files that a pattern matches and none with "!" excludes. A folder that a pattern names is all in it. Each pattern without "!" should match at least one file; see `onMissingOutput`',
      }),
    onMissingOutput: z.enum(['fail', 'warn']).default('fail').meta({
      description:
        'Whether the task fails when a pattern matches nothing, or a file that matches can not be stored: `skippedOutputs` has the reasons',
    }),
    outputManifest: z
      .boolean()
      .default(false)
      .meta({
        description: `Whether each node has a further output, ${manifestPath}: modes and times of files, folders that may be empty, and links`,
      }),
    keepOutputs: z.boolean().default(false).meta({
      description:
        'Whether outputs are stored as well when the task is cancelled, or its time or its lease ends, while its command runs',
    }),
    resources: ResourcesSpec.default({ vcpus: 1, memoryMiB: 256, diskMiB: 512 }),
    nodes: z.int().min(1).max(taskLimits.nodes).default(1),
    lease: LeaseSpec.default({ kind: 'bestEffort', durationS: 3600 }),
    timeoutS: z.int().min(1).max(taskLimits.timeoutS).default(600),
    quote: quoteName,
    market: MarketTerms.optional(),
    ports: PortRequests.meta({ description: 'Published of each of its VMs, from when it is placed to its end' }),
    ...optionalRules,
  })
  .meta({ id: 'TaskSpec' });

export type TaskSpec = z.infer<typeof TaskSpec>;

/** A spec as the ledger has it: one that an earlier version accepted may have patterns that are none any more. */
export const StoredTaskSpec = TaskSpec.extend({ outputs: z.array(z.string()).default([]) });

/** Why a task waits: how many hosts failed which filter of the placement. */
export interface Refusal {
  hosts: number;
  failed: Record<string, number>;
}

export interface TaskError {
  code: ErrorCode;
  message: string;
}

/** A regular file that a task left, now in the repository. `node` is the index of the VM that wrote it. */
export interface TaskOutput {
  path: string;
  node: number;
  file: string;
  sizeBytes: number;
  sha256: string;
}

export interface TimelineEntry {
  step: string;
  startedAt: string;
  endedAt: string | null;
  /** What is worth knowing of it: of `boot`, how each VM came to life. */
  detail?: string;
}

/** What billing needs of one VM of a task. */
export interface Usage {
  vm: string;
  host: string;
  provider: string;
  vcpus: number;
  memoryMiB: number;
  startedAt: string;
  endedAt: string;
  vcpuSeconds: number;
  memoryMiBSeconds: number;
}

export type { TaskState };
