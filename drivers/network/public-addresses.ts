import { z } from 'zod';
import { ProcessError, run } from '../host/run-process.ts';

const deadlineMs = 5000;
/**
 * For which the kernel keeps an address that is not extended: below the lease (ledger/edges/edge-lease.ts), so that it is gone
 * before another edge has it.
 */
export const addressLifetimeS = 2;

/** The public addresses on an edge's interface: each is there for a short time, and is extended. */
export interface PublicAddressTable {
  /** Adds or extends them, and announces those that were not there, the others now and then. */
  hold(addresses: readonly string[]): Promise<void>;
  release(addresses: readonly string[]): Promise<void>;
  /** Whether another machine answers for one of them. Takes a second where none does. */
  areTaken(addresses: readonly string[]): Promise<boolean>;
}

const shown = z.array(z.looseObject({ addr_info: z.array(z.looseObject({ local: z.string().optional() })).default([]) }));

/**
 * An address is announced as long as it is held: a client or a switch may have missed the first time, or have heard another edge
 * since, which had been cut off from the API and gave the address up a moment after its return.
 */
const announceEveryMs = 2000;

/**
 * @param device the interface on which clients come
 * @param onFailure of an announcement, which nothing waits for
 */
export function openPublicAddresses(device: string, onFailure: (error: unknown) => void): PublicAddressTable {
  async function present(): Promise<Set<string>> {
    const text = await run(['ip', '-json', '-4', 'address', 'show', 'dev', device], { deadlineMs });
    const found = shown.parse(JSON.parse(text === '' ? '[]' : text));
    return new Set(found.flatMap(({ addr_info }) => addr_info.flatMap(({ local }) => local ?? [])));
  }
  const change = (lines: string[]): Promise<string> => run(['ip', '-batch', '-'], { deadlineMs, input: `${lines.join('\n')}\n` });
  /** Gratuitous ARP: clients and switches learn that the address is here now. */
  const announce = (address: string): Promise<string> =>
    run(['arping', '-q', '-U', '-c', '1', '-I', device, '-s', address, address], { deadlineMs });
  const announcedAtMs = new Map<string, number>();

  return {
    async hold(addresses) {
      if (addresses.length === 0) return;
      const before = await present();
      const lifetime = `valid_lft ${addressLifetimeS} preferred_lft ${addressLifetimeS}`;
      await change(addresses.map((address) => `address replace ${address}/32 dev ${device} ${lifetime}`));
      const nowMs = performance.now();
      for (const address of addresses) {
        const dueMs = (announcedAtMs.get(address) ?? Number.NEGATIVE_INFINITY) + announceEveryMs;
        if (before.has(address) && nowMs < dueMs) continue;
        announcedAtMs.set(address, nowMs);
        announce(address).catch(onFailure);
      }
    },
    async release(addresses) {
      const found = await present();
      const here = addresses.filter((address) => found.has(address));
      if (here.length === 0) return;
      const input = here.map((address) => `address delete ${address}/32 dev ${device}\n`).join('');
      try {
        await run(['ip', '-force', '-batch', '-'], { deadlineMs, input });
      } catch (error) {
        // The kernel may have removed one meanwhile, whose lifetime had ended.
        const left = await present();
        if (here.some((address) => left.has(address))) throw error;
      }
    },
    async areTaken(addresses) {
      const taken = await Promise.all(addresses.map((address) => isTaken(device, address)));
      return taken.some(Boolean);
    },
  };
}

/** Duplicate address detection (RFC 5227): this machine does not answer itself. */
async function isTaken(device: string, address: string): Promise<boolean> {
  try {
    await run(['arping', '-q', '-D', '-c', '1', '-w', '1', '-I', device, address], { deadlineMs });
    return false;
  } catch (error) {
    if (error instanceof ProcessError && error.exitCode === 1) return true;
    throw error;
  }
}
