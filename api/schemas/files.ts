import { z } from 'zod';
import { bytes, sha256, time } from './common.ts';

export const File = z
  .strictObject({
    id: z.string().meta({ example: 'file_01jd7x3v8ve5hb1f5wwfb2x5r1' }),
    name: z.string(),
    sizeBytes: bytes,
    sha256,
    owner: z.string(),
    createdAt: time,
  })
  .meta({ id: 'File' });
