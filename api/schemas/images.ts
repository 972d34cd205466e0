import { z } from 'zod';
import { imageStates } from '../../model/states.ts';
import { bytes, codes, time } from './common.ts';

export const Image = z
  .strictObject({
    id: z.string(),
    name: z.string(),
    digest: z.string(),
    state: z.enum(imageStates),
    owner: z.string().nullable().meta({ description: "null: the site's own" }),
    published: z.boolean().meta({ description: 'Whether every owner may use it' }),
    sizeBytes: bytes,
    virtualMiB: z.int(),
    cloudInit: z.boolean().meta({ description: 'Its VMs get a NoCloud seed' }),
    hosts: z.array(z.string()).meta({ description: 'Hosts that have it in their cache' }),
    workflowId: z.string().nullable().meta({ description: "The workflow that built it, in Temporal's own UI" }),
    buildVm: z.string().nullable().meta({ description: 'The VM in which it is or was built' }),
    error: z.strictObject({ code: z.enum(codes), message: z.string() }).nullable(),
    timeline: z.array(z.strictObject({ step: z.string(), startedAt: time, endedAt: time.nullable() })),
    createdAt: time,
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Image' });
