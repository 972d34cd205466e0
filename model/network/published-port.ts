import { z } from 'zod';
import { type PortRange, portProtocols, portRange } from './port-range.ts';
import { parseCidr } from './reach-exception.ts';

/** `removing` ends with the row. */
export const portStates = ['pending', 'active', 'removing'] as const;
export type PortState = (typeof portStates)[number];

/** Of an order; a quota of the owner bounds the sum. */
export const portLimits = { perVm: 32, allow: 16 } as const;

const portNumber = z.int().min(1).max(65_535);

/** `255.255.255.255/32` */
const cidrChars = 18;

const clients = z
  .string()
  .max(cidrChars, { abort: true, error: 'expected an IPv4 address, or a CIDR such as 192.168.7.0/24' })
  .superRefine((text, context) => {
    try {
      parseCidr(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
    }
  })
  .overwrite((text) => (text.includes('/') ? text : `${text}/32`));

/** A port of a VM that is to be reached from outside. */
export const PortRequest = z
  .strictObject({
    port: portNumber.meta({ description: 'In the guest' }),
    protocol: z.enum(portProtocols).default('tcp'),
    publicPort: portNumber.optional().meta({ description: 'Without it a free one is chosen' }),
    allow: z
      .array(clients)
      .max(portLimits.allow)
      .default([])
      .meta({ description: 'Addresses and CIDRs of the clients; none: everybody' }),
  })
  .meta({ id: 'PortRequest' });
export type PortRequest = z.infer<typeof PortRequest>;

/** Ports of a new VM: each once. */
export const PortRequests = z
  .array(PortRequest)
  .max(portLimits.perVm)
  .default([])
  .superRefine((ports, context) => {
    const seen = new Set<string>();
    for (const [index, { port, protocol }] of ports.entries()) {
      const key = `${port}/${protocol}`;
      if (seen.has(key)) context.addIssue({ code: 'custom', path: [index, 'port'], message: `${key} is there twice` });
      seen.add(key);
    }
  });

/** Where a site publishes ports. */
export interface PublicPorts extends PortRange {
  addresses: readonly string[];
}

export const publicPortsOf = (api: {
  BERTH_PUBLIC_ADDRESSES: readonly string[];
  BERTH_PUBLIC_PORTS: PortRange;
}): PublicPorts => ({ addresses: api.BERTH_PUBLIC_ADDRESSES, ...api.BERTH_PUBLIC_PORTS });

/** `20000-29999`, or a single port. Throws an Error that says what is wrong. */
export function parsePortRange(text: string): PortRange {
  const [, from = '', to = from] = /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?$/.exec(text) ?? [];
  const range = portRange(from, to);
  if (range === null) throw new Error(`${text}: expected a range of ports such as 20000-29999`);
  return range;
}
