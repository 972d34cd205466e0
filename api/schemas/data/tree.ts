import { z } from 'zod';
import { treePathProblem } from '../../../model/tree/path.ts';
import { bytes, sha256, time, timeWithOffset } from '../common.ts';

/** A path as text (docs/data.md). In a URL its slashes may stand as they are. */
export const TreePath = z.string().superRefine((path, context) => {
  const problem = treePathProblem(path);
  if (problem !== null) context.addIssue({ code: 'custom', message: problem });
});
export const OfPath = z.strictObject({ path: TreePath.meta({ description: 'With its slashes, which need not be encoded' }) });

const metadataKeys = 32;
const metadataKey = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, { error: 'expected at most 64 of a-z, 0-9, ".", "_", "-"' });
const metadataValue = z.string().max(1024);
const few = (metadata: object): boolean => Object.keys(metadata).length <= metadataKeys;
const tooMany = { error: `expected at most ${metadataKeys} keys` };

export const Metadata = z.record(metadataKey, metadataValue).refine(few, tooMany);
const MetadataChange = z.record(metadataKey, metadataValue.nullable()).refine(few, tooMany);

export const Entry = z
  .strictObject({
    path: z.string(),
    kind: z.enum(['file', 'folder']),
    file: z.string().nullable().meta({ description: 'The id of the file; null: a folder' }),
    sizeBytes: bytes.nullable(),
    sha256: sha256.nullable(),
    metadata: z.record(z.string(), z.string()),
    expiresAt: time.nullable().meta({ description: 'When it is deleted; null: not, or by a rule' }),
    createdAt: time,
    modifiedAt: time.meta({ description: 'When its bytes were stored' }),
  })
  .meta({ id: 'TreeEntry' });

export const EntryChange = z
  .strictObject({
    metadata: MetadataChange.optional().meta({ description: 'Keys that are not named stay; null removes one' }),
    expiresAt: timeWithOffset.nullable().optional(),
  })
  .meta({ id: 'EntryChange' });

const replace = z.boolean().default(false).meta({ description: 'A file that is there goes into the trash' });

export const TreeActionOrder = z
  .discriminatedUnion('action', [
    z.strictObject({ action: z.literal('folder'), path: TreePath }),
    z.strictObject({ action: z.literal('copy'), from: TreePath, to: TreePath, replace }),
    z.strictObject({ action: z.literal('move'), from: TreePath, to: TreePath, replace }),
    z.strictObject({ action: z.literal('link'), file: z.string().max(64), to: TreePath, replace }),
  ])
  .meta({ id: 'TreeActionOrder' });

export const Deletion = z
  .strictObject({
    id: z.string(),
    path: z.string().meta({ description: 'Where it was' }),
    reason: z.enum(['deleted', 'replaced', 'expired']),
    entries: z.int(),
    sizeBytes: bytes.meta({ description: 'Of its files, which other paths may name as well' }),
    purgeAt: time.meta({ description: 'From then on it cannot be restored' }),
    createdAt: time,
  })
  .meta({ id: 'Deletion' });

export const RestoreOrder = z
  .strictObject({ to: TreePath.optional().meta({ description: 'Default: where it was' }), replace })
  .meta({ id: 'RestoreOrder' });

/** A text that paths begin with; its last name may be a part of one. */
const Prefix = z.string().max(2048);

const year = 366 * 24 * 3600;

export const ExpiryRule = z
  .strictObject({ id: z.string(), prefix: z.string(), afterS: z.int(), createdAt: time })
  .meta({ id: 'ExpiryRule' });
export const ExpiryRuleOrder = z
  .strictObject({
    prefix: Prefix.meta({
      description: 'What paths begin with; a folder ends with /. Of several rules the longest prefix holds',
    }),
    afterS: z
      .int()
      .min(60)
      .max(100 * year)
      .meta({ description: 'Seconds after its bytes were stored' }),
  })
  .meta({ id: 'ExpiryRuleOrder' });

const flag = z.enum(['0', '1']).default('0');

export const TreeQuery = z
  .strictObject({
    folder: TreePath.optional().meta({ description: 'What lies in this folder; default: in the root' }),
    prefix: Prefix.optional().meta({ description: 'Instead: every entry whose path begins with this' }),
    limit: z.coerce.number({ error: 'expected a whole number from 1 to 200' }).int().min(1).max(200).default(50),
    // A path is in it, in base64.
    cursor: z.string().max(4096).optional().meta({ description: 'The `next` of the page before' }),
  })
  .refine(({ folder, prefix }) => folder === undefined || prefix === undefined, {
    path: ['prefix'],
    error: 'expected folder or prefix, not both',
  });

export const EntryQuery = z.strictObject({
  describe: flag.meta({ description: '1: the entry as JSON, and not its bytes' }),
  archive: z.enum(['tar']).optional().meta({ description: 'All of it as one file' }),
});

export const PutQuery = z.strictObject({
  sha256: sha256.optional().meta({ description: 'Refuse the bytes unless this is their SHA-256' }),
  expiresAt: timeWithOffset.optional().meta({ description: 'When it is to be deleted' }),
  metadata: z.string().max(8192).default('{}').meta({ description: 'An object of texts, as JSON' }),
});

export const DeleteQuery = z.strictObject({
  recursive: flag.meta({ description: '1: a folder with all in it' }),
  purge: flag.meta({ description: '1: for good' }),
});
