import { z } from 'zod';
import { type QuotaName, quotaNames } from '../../model/owners/quota.ts';
import { time, timeWithOffset } from './common.ts';

const descriptions: Record<QuotaName, string> = {
  bytes: 'Bytes of files',
  queued: 'Tasks that wait for a host',
  vms: 'Standalone VMs',
  tasks: 'Tasks that are not over, waiting ones included',
  vcpus: 'vCPUs of VMs that are not removed, of tasks and builds as well, waiting and suspended ones included',
  memoryMiB: 'Memory of them',
  diskMiB: 'Disk of them, images included',
  ports: 'Published ports, those that are being withdrawn included',
  webhooks: 'Webhooks, disabled ones included',
  entries: 'Paths of its tree, those in the trash included',
  reservedVcpuHours: 'What is left of leases with a promise, in vCPU-hours',
  horizonS: 'Seconds from now by which a lease with a promise has to end; used: the latest end',
};

const quota = z.strictObject({ limit: z.number(), used: z.number() });
const Quotas = z
  .strictObject(
    Object.fromEntries(quotaNames.map((name) => [name, quota.meta({ description: descriptions[name] })])) as Record<
      QuotaName,
      typeof quota
    >,
  )
  .meta({ id: 'Quotas' });

const limit = z.int().min(0).max(2_147_483_647).nullable().optional();
const QuotaLimits = z
  .strictObject(
    Object.fromEntries(
      quotaNames.map((name) => [
        name,
        (name === 'bytes' ? z.int().min(0).nullable().optional() : limit).meta({
          description: `${descriptions[name]}; null: the site's limit`,
        }),
      ]),
    ) as Record<QuotaName, typeof limit>,
  )
  .meta({ id: 'QuotaLimits' });

export const Owner = z.strictObject({ id: z.string(), name: z.string(), quotas: Quotas, createdAt: time }).meta({ id: 'Owner' });

const name = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[A-Za-z0-9][A-Za-z0-9._@-]*$/, { error: 'expected letters, digits, ".", "_", "@" and "-"' });

export const OwnerOrder = z.strictObject({ name, quotas: QuotaLimits.default({}) }).meta({ id: 'OwnerOrder' });
export const OwnerChange = z.strictObject({ quotas: QuotaLimits }).meta({ id: 'OwnerChange' });

const roles = ['client', 'operator'] as const;

const keyFields = {
  id: z.string(),
  owner: z.string(),
  name: z.string(),
  role: z.enum(roles),
  createdAt: time,
  expiresAt: time.nullable().meta({ description: 'Refused from then on; null: never' }),
};

export const Key = z.strictObject({ ...keyFields, revokedAt: time.nullable() }).meta({ id: 'Key' });

export const NewKey = Key.extend({
  key: z.string().nullable().meta({
    description: 'The key, in this one answer: null in that to a repeated request. The site keeps its hash alone',
  }),
}).meta({ id: 'NewKey' });

export const KeyOrder = z
  .strictObject({
    name: z
      .string()
      .max(63)
      .regex(/^[ -~]*$/, { error: 'expected printable ASCII' })
      .default('')
      .meta({ description: 'What it is for' }),
    owner: z.string().max(64).optional().meta({ description: "Whose; the caller's own by default, of operators any owner's" }),
    role: z.enum(roles).default('client').meta({ description: 'operator: of operators alone' }),
    expiresAt: timeWithOffset.optional().meta({ description: 'Without it, it is valid until it is revoked' }),
  })
  .meta({ id: 'KeyOrder' });

export const Me = z
  .strictObject({
    owner: z.strictObject({ id: z.string(), name: z.string() }),
    key: z.strictObject(keyFields).omit({ owner: true }),
    quotas: Quotas,
  })
  .meta({ id: 'Me', description: 'Who the caller is, what its owner may have, and has' });
