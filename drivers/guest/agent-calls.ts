import { type Virsh, type VirshAnswer, VirshUnresponsive } from '../libvirt/virsh.ts';

/** An answer that takes longer makes its guest a slow one, as does none. Most take 2 ms, on a busy machine some 100. */
const slowAfterMs = 3000;
/** For how long after that: a guest that answers again at once must not take a place among the quick ones each time. */
const slowForMs = 60_000;

/** How many calls at a time; the others wait in the order of their coming, each as long as its own deadline allows. */
class Places {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  /** Waits for a place. false: there was none in time. */
  async enter(untilMs: number): Promise<boolean> {
    if (this.#free > 0) {
      this.#free -= 1;
      return true;
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const admit = () => resolve(true);
    this.#waiting.push(admit);
    const timer = setTimeout(
      () => {
        const at = this.#waiting.indexOf(admit);
        if (at === -1) return;
        this.#waiting.splice(at, 1);
        resolve(false);
      },
      Math.max(0, untilMs - performance.now()),
    );
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}

interface PlaceCounts {
  quick: number;
  slow: number;
}

/**
 * Calls of guests' agents, whose duration a guest decides: one at a time for each domain, and those of guests that were slow
 * or silent lately in a pool of their own, so that they make nobody wait but each other. A call's deadline includes its wait.
 */
export function openAgentCalls(quick: Virsh, slow: Virsh, places: PlaceCounts): Pick<Virsh, 'call'> {
  const pools = { quick: new Places(places.quick), slow: new Places(places.slow) };
  const domains = new Map<string, { places: Places; calls: number }>();
  const slowUntilMs = new Map<string, number>();

  function isSlow(domain: string): boolean {
    const untilMs = slowUntilMs.get(domain);
    if (untilMs === undefined) return false;
    if (untilMs > performance.now()) return true;
    slowUntilMs.delete(domain);
    return false;
  }

  /** Forgets those whose time is over: their domains may be gone. */
  function markSlow(domain: string): void {
    for (const known of [...slowUntilMs.keys()]) isSlow(known);
    slowUntilMs.set(domain, performance.now() + slowForMs);
  }

  async function callInTurn(domain: string, command: readonly [string, ...string[]], untilMs: number): Promise<VirshAnswer> {
    const slowly = isSlow(domain);
    const pool = slowly ? pools.slow : pools.quick;
    if (!(await pool.enter(untilMs))) throw new VirshUnresponsive(command, 'too many guests answer slowly; it was not called');
    const beganMs = performance.now();
    try {
      return await (slowly ? slow : quick).call(command, Math.max(1, untilMs - beganMs));
    } finally {
      if (performance.now() - beganMs > slowAfterMs) markSlow(domain);
      pool.leave();
    }
  }

  return {
    async call(command, deadlineMs) {
      const untilMs = performance.now() + deadlineMs;
      const domain = command[1] ?? '';
      const own = domains.get(domain) ?? { places: new Places(1), calls: 0 };
      domains.set(domain, own);
      own.calls += 1;
      try {
        if (!(await own.places.enter(untilMs)))
          throw new VirshUnresponsive(command, 'the calls before it took its time; it was not called');
        try {
          return await callInTurn(domain, command, untilMs);
        } finally {
          own.places.leave();
        }
      } finally {
        own.calls -= 1;
        if (own.calls === 0) domains.delete(domain);
      }
    },
  };
}
