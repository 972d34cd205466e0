import { z } from 'zod';
import { skipReasons } from '../../model/outputs/skipped.ts';
import { taskStates } from '../../model/states.ts';
import { TaskSpec } from '../../model/task.ts';
import { bytes, codes, sha256, time, waiting } from './common.ts';

export const Task = TaskSpec.extend({
  id: z.string().meta({ example: 'task_01jd7x3v8ve5hb1f5wwfb2x5r1' }),
  owner: z.string(),
  state: z.enum(taskStates),
  workflowId: z.string().meta({ description: "The workflow that runs it, in Temporal's own UI" }),
  vms: z.array(z.string()).meta({ description: 'Its VMs, by node' }),
  hosts: z.array(z.string()).meta({ description: 'Where they run or ran, by node; empty until the task is placed' }),
  waiting: waiting.meta({ description: 'Why it is queued: how many hosts there are, and how many failed which filter' }),
  exitCode: z.int().nullable(),
  error: z.strictObject({ code: z.enum(codes), message: z.string() }).nullable(),
  promise: z
    .strictObject({ startAt: time, endAt: time })
    .nullable()
    .meta({ description: 'When its VMs are ready; null: best effort' }),
  outputPatterns: z.array(z.string()).meta({ description: 'The `outputs` of the request' }),
  outputs: z.array(z.strictObject({ path: z.string(), node: z.int(), file: z.string(), sizeBytes: bytes, sha256 })),
  skippedOutputs: z
    .array(z.strictObject({ path: z.string(), node: z.int(), reason: z.enum(skipReasons), detail: z.string() }))
    .meta({
      description: 'Files that match and were not stored, at most 50; a folder or "" stands for what was not found in it',
    }),
  skippedOutputsCount: z.int().min(0).meta({ description: 'The number of all of them' }),
  timeline: z.array(
    z.strictObject({
      step: z.string(),
      startedAt: time,
      endedAt: time.nullable(),
      detail: z.string().optional().meta({ description: 'Of `boot`: how its VMs booted, warm or cold, and then why' }),
    }),
  ),
  cancelRequestedAt: time.nullable(),
  createdAt: time,
  startedAt: time.nullable(),
  finishedAt: time.nullable(),
}).meta({ id: 'Task' });
