import { z } from 'zod';

const time = z.iso.datetime();

/** What is heard of a host that leaves the site. */
export const hostRemovedType = 'berth.host.removed';

export const HostRemovedData = z
  .strictObject({
    host: z.string(),
    provider: z.string(),
    declaredLost: z.boolean(),
    /** What was there, and has ended with it. */
    lost: z.strictObject({ tasks: z.array(z.string()), vms: z.array(z.string()), images: z.array(z.string()) }),
    by: z.string(),
    at: time,
  })
  .meta({ id: 'HostRemoved', description: 'The host is no part of the site any more' });
