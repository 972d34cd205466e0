import { z } from 'zod';
import { portProtocols } from './port-range.ts';

/** What is heard of published ports: that an edge leads there, and that none does any more. */
export const portEventTypes = {
  published: 'berth.port.published',
  withdrawn: 'berth.port.withdrawn',
} as const;

export const PortData = z
  .strictObject({
    port: z.string(),
    vm: z.string(),
    owner: z.string(),
    protocol: z.enum(portProtocols),
    vmPort: z.int(),
    publicAddress: z.string(),
    publicPort: z.int(),
    at: z.iso.datetime(),
  })
  .meta({ id: 'PortEvent', description: 'Whether a port of a VM is reached from outside' });
