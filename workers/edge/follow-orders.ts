import type { EdgeAnswer, EdgeOrders, EdgeReport } from '../../contracts/edge.ts';
import type { EdgeKernel } from '../../drivers/network/edge.ts';
import type { PublicAddressTable } from '../../drivers/network/public-addresses.ts';
import type { Logger } from '../../model/log.ts';

export interface EdgeParts {
  /** This edge's address on the hosts' network. */
  address: string;
  kernel: EdgeKernel;
  publicAddresses: PublicAddressTable;
  /** One exchange with the API. */
  ask: (report: EdgeReport) => Promise<EdgeAnswer>;
  clock: () => number;
  log: Logger;
}

export interface EdgeFollower {
  /**
   * One pass: reports, extends or releases the public addresses, and begins to apply what has changed. Rejects where no API
   * answered; what the kernel has then stays.
   */
  pass(): Promise<void>;
  /** For metrics. */
  status(): { active: boolean; ports: number; segments: number; failing: boolean };
  /** Resolves when the kernel is not being changed. */
  settled(): Promise<void>;
}

/**
 * After this from its request an answer extends no address: the kernel's lifetime has to end before the lease, which began
 * with the request at the earliest.
 */
const freshMs = 900;
/** For which nothing has to be asked before an address is extended without an API: another edge can't have the lease yet. */
const undisputedMs = 1000;
/** Rules are applied again, in case another program has changed them. */
const reapplyEveryMs = 30_000;

/** Keeps an edge as the ledger wants it, from any state of the kernel. */
export function followOrders({ address, kernel, publicAddresses, ask, clock, log }: EdgeParts): EdgeFollower {
  let wanted: { version: string; orders: EdgeOrders } | null = null;
  let inKernel: { version: string; orders: EdgeOrders; atMs: number } | null = null;
  let applying: Promise<void> | null = null;
  let beingApplied: { version: string; orders: EdgeOrders } | null = null;
  let problem: string | null = null;
  /** Whether the API wants to know the ports. */
  let wantsPorts = true;
  let epoch: number | null = null;
  let turn: number | null = null;
  let answeredAtMs = Number.NEGATIVE_INFINITY;
  let isProbing = false;

  /** Also those that are yet to come: a port is gone once it is in none of them. */
  function portsNow(): Record<string, string> {
    const coming = [beingApplied, wanted].flatMap((one) => one?.orders.ports ?? []).map(({ id }) => [id, ''] as const);
    const here = (inKernel?.orders.ports ?? []).map(({ id, digest }) => [id, digest] as const);
    return Object.fromEntries([...coming, ...here]);
  }

  async function apply(next: { version: string; orders: EdgeOrders }): Promise<void> {
    beingApplied = next;
    try {
      await kernel.apply(next.orders);
      inKernel = { ...next, atMs: clock() };
      problem = null;
    } catch (error) {
      log.error({ err: error }, 'the rules could not be applied; those of before stay');
      problem = error instanceof Error ? error.message.slice(0, 500) : String(error);
      return;
    } finally {
      applying = null;
    }
    beingApplied = null;
  }

  /** Takes as long as it takes beside the passes, which extend the addresses meanwhile. */
  function applyIfDue(): void {
    if (wanted === null || applying !== null) return;
    if (inKernel?.version === wanted.version && problem === null && clock() - inKernel.atMs < reapplyEveryMs) return;
    applying = apply(wanted);
  }

  /** No edge has the addresses before it has the rules. */
  async function holdAddresses(): Promise<void> {
    const addresses = wanted?.orders.publicAddresses ?? [];
    if (epoch === null) await publicAddresses.release(addresses);
    else if (inKernel !== null) await publicAddresses.hold(addresses);
  }

  /** Another edge can have the addresses only if it has reached an API: then it answers for them. */
  function probe(addresses: readonly string[]): void {
    if (isProbing) return;
    isProbing = true;
    publicAddresses
      .areTaken(addresses)
      .then((taken) => {
        if (!taken || epoch === null) return;
        log.warn('another machine answers for a public address: this edge gives them up');
        epoch = null;
      })
      .catch((error: unknown) => log.error({ err: error }, 'the public addresses could not be probed'))
      .finally(() => {
        isProbing = false;
      });
  }

  async function withoutApi(): Promise<void> {
    if (epoch !== null && clock() - answeredAtMs > undisputedMs) probe(wanted?.orders.publicAddresses ?? []);
    await holdAddresses();
  }

  async function pass(): Promise<void> {
    const sentAtMs = clock();
    let answer: EdgeAnswer;
    try {
      answer = await ask({
        address,
        turn,
        epoch,
        version: wanted?.version ?? null,
        // What an earlier worker has left in the kernel is not known before the first rules have replaced it.
        ports: wantsPorts && inKernel !== null ? portsNow() : null,
        problem,
      });
    } catch (error) {
      await withoutApi();
      throw error;
    }
    answeredAtMs = sentAtMs;
    wantsPorts = answer.wantsPorts;
    turn = answer.turn;
    if (answer.epoch !== epoch)
      log.info({ epoch: answer.epoch }, answer.epoch === null ? 'this edge stands by' : 'this edge is active');
    epoch = answer.epoch;
    if (answer.orders !== null) wanted = { version: answer.version, orders: answer.orders };
    if (epoch === null || clock() - sentAtMs < freshMs) await holdAddresses();
    applyIfDue();
  }

  return {
    pass,
    status: () => ({
      active: epoch !== null,
      ports: inKernel?.orders.ports.length ?? 0,
      segments: inKernel?.orders.segments.length ?? 0,
      failing: problem !== null,
    }),
    async settled() {
      await applying;
    },
  };
}
