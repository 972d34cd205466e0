import { Worker } from 'node:worker_threads';
import { BerthError } from '../../../model/errors.ts';
import { requestLimits } from '../../transaction.ts';
import type { SiteRead } from './ledger-site.ts';
import { makePlan, type PlanAnswer, type PlanInput, type PlanKind, type PlanOf, type PlanOrder } from './plan-kinds.ts';

/**
 * Where plans are made. The plan of a small site takes a few milliseconds, less than a thread's start would; that of a large
 * one takes more than the event loop of an API process or a control worker may stand still, and is made in a thread. The
 * thread keeps nothing: it is given what was read, and a lost one is replaced by the next order.
 */

/** Characters of a site's rows beyond which planning takes more than some 20 ms: about 8,000 VMs, or 300 leases. */
const inlineCharacters = 400_000;
/** A plan of 5,000 hosts and 100,000 leases takes a third of it. */
const maxMemoryMiB = 1024;

interface Waiting {
  resolve: (plan: PlanOf<PlanKind>) => void;
  reject: (error: Error) => void;
}

class PlanThread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #orders = 0;
  #ended = false;

  constructor() {
    this.#worker = new Worker(new URL('./planning-thread.ts', import.meta.url), {
      // Options of this process may be such that a thread cannot have, as those of a test runner are.
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: maxMemoryMiB },
    });
    this.#worker.on('message', (answer: PlanAnswer) => this.#settle(answer));
    this.#worker.on('error', (error) => this.#end(`it failed: ${error instanceof Error ? error.message : String(error)}`));
    this.#worker.on('exit', (code) => this.#end(`it ended with ${code}`));
    // After the listeners, which would undo it. It keeps no process alive: what waits for a plan has a connection that does.
    this.#worker.unref();
  }

  get hasEnded(): boolean {
    return this.#ended;
  }

  async plan(order: Omit<PlanOrder, 'id'>): Promise<PlanOf<PlanKind>> {
    const id = this.#orders++;
    const late = setTimeout(() => {
      this.#end(`no plan within ${requestLimits.timeout} ms`);
      void this.#worker.terminate();
    }, requestLimits.timeout);
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.set(id, { resolve, reject });
        this.#worker.postMessage({ id, ...order } satisfies PlanOrder);
      });
    } finally {
      clearTimeout(late);
      this.#waiting.delete(id);
    }
  }

  #settle(answer: PlanAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    if ('plan' in answer) waiting?.resolve(answer.plan);
    else waiting?.reject(new BerthError('internal', `The site could not be planned: ${answer.failed}`));
  }

  #end(why: string): void {
    this.#ended = true;
    for (const { reject } of this.#waiting.values())
      reject(new BerthError('internal', `The thread that plans the site is lost (${why}); the next plan starts another`));
  }
}

let thread: PlanThread | null = null;

/** Makes a plan in the thread of this process, which the first one starts. */
export function planInThread<K extends PlanKind>(kind: K, read: SiteRead, input: PlanInput<K>): Promise<PlanOf<K>> {
  if (thread === null || thread.hasEnded) thread = new PlanThread();
  return thread.plan({ kind, read, input }) as Promise<PlanOf<K>>;
}

/** Makes a plan where the size of the site says. */
export async function inPlan<K extends PlanKind>(kind: K, read: SiteRead, input: PlanInput<K>): Promise<PlanOf<K>> {
  return sizeOf(read.row) > inlineCharacters ? planInThread(kind, read, input) : makePlan(kind, read, input);
}

/** About how many characters a row has in JSON. */
function sizeOf(row: unknown): number {
  if (typeof row === 'string') return row.length;
  if (Array.isArray(row)) return row.length * sizeOf(row[0]) + row.length;
  if (typeof row !== 'object' || row === null) return 4;
  return Object.entries(row).reduce((sum, [name, value]) => sum + name.length + sizeOf(value), 0);
}
