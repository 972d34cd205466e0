import type { Clock } from '../../../drivers/ports/clock.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { isId, type VmId } from '../../../model/ids.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { observeEnd } from '../vm/domain-end.ts';
import { observeWithoutEnd } from './observe-domains.ts';

export interface DomainWatch {
  /** Tells the site that these VMs' domains have changed: the site asks what they do then. Returns once that is certain. */
  report: (vmIds: VmId[]) => Promise<void>;
  signal: AbortSignal;
  clock: Clock;
}

/** Between two looks at all domains, for events that were lost. A look is a query and a small file for each VM. */
const pollMs = 5000;
/** A migration's hand-over pauses its target for less than this. */
const confirmMs = 1000;
/** After which all VMs are reported again, for a report that met an operation under way. */
const reportAllMs = 10 * 60_000;

/** What was reported of each VM last: a kind of condition, and who paused it. */
type Reported = Map<VmId, string>;

/**
 * Follows this host's domains until it is aborted: the hypervisor's events, and a poll. Reports each VM whose condition
 * has changed without an activity at work on it, and at first all of them: what happened while no worker ran.
 */
export async function watchDomains(ports: HostPorts, { report, signal, clock }: DomainWatch): Promise<void> {
  const changes = new Changes();
  const watching = ports.hypervisor.watch((name) => changes.add(name), signal);
  let reported: Reported = new Map();
  let allDueMs = clock.nowMs();
  let pollDueMs = clock.nowMs();
  while (!signal.aborted) {
    const nowMs = clock.nowMs();
    const reportsAll = nowMs >= allDueMs;
    const polls = changes.take(nowMs >= pollDueMs);
    if (polls === 'all') pollDueMs = nowMs + pollMs;
    if (reportsAll) [reported, allDueMs] = [new Map(), nowMs + reportAllMs];
    const found = await findChanges(ports, polls, reported, reportsAll);
    const lasting = await confirmPauses(ports, found, { clock, signal });
    if (lasting.size > 0) await report([...lasting.keys()]);
    for (const [vmId, text] of lasting) reported.set(vmId, text);
    await changes.wait(Math.max(1, pollDueMs - clock.nowMs()), { clock, signal });
  }
  await watching;
}

/** The domains to look at next. */
class Changes {
  #ids = new Set<VmId>();
  #all = true;
  #wake = new AbortController();

  add(name: string | null): void {
    if (name === null) this.#all = true;
    else if (isId('vm', name)) this.#ids.add(name);
    this.#wake.abort();
  }

  take(all: boolean): VmId[] | 'all' {
    const taken = this.#all || all ? 'all' : [...this.#ids];
    this.#all = false;
    this.#ids = new Set();
    this.#wake = new AbortController();
    return taken;
  }

  async wait(ms: number, { clock, signal }: Omit<DomainWatch, 'report'>): Promise<void> {
    const ended = AbortSignal.any([signal, this.#wake.signal]);
    // Woken, or aborted: the caller looks which.
    await clock.sleep(ms, ended).catch(() => undefined);
  }
}

async function findChanges(
  ports: HostPorts,
  changed: VmId[] | 'all',
  reported: Reported,
  reportsAll: boolean,
): Promise<Reported> {
  const here = await ports.store.listIds();
  if (changed === 'all') for (const id of reported.keys()) if (!here.includes(id)) reported.delete(id);
  const found: Reported = new Map();
  for (const id of changed === 'all' ? here : changed) {
    const before = reported.get(id);
    const text = await describe(ports, id, changed === 'all' ? before : undefined);
    if (text === 'unavailable' || text === before) continue;
    // What an activity is at work on, and a VM that has just started: its saga writes that. One that left has no state here.
    if (text === 'changing') reported.delete(id);
    else if (text === 'left' || (text === 'running' && before === undefined && !reportsAll)) reported.set(id, text);
    else found.set(id, text);
  }
  return found;
}

/** A condition as text. The reason of an end stands in a file: `before` spares reading it again. */
async function describe(ports: HostPorts, id: VmId, before: string | undefined): Promise<string> {
  const condition = await nullIfUnavailable(async () => (await observeWithoutEnd(ports, id)) ?? 'changing');
  if (condition === null) return 'unavailable';
  if (condition === 'changing') return condition;
  if (condition !== 'gone') return condition.kind === 'paused' ? `paused ${condition.by}` : condition.kind;
  if (before === 'gone' || before === 'left') return before;
  return (await observeEnd(ports, id)) === null ? 'left' : 'gone';
}

/** Without those that did not stay paused. */
async function confirmPauses(ports: HostPorts, found: Reported, watch: Omit<DomainWatch, 'report'>): Promise<Reported> {
  const isPaused = (text: string): boolean => text.startsWith('paused');
  if (![...found.values()].some(isPaused)) return found;
  // An abort is noticed by the caller.
  await watch.clock.sleep(confirmMs, watch.signal).catch(() => undefined);
  const lasting: Reported = new Map();
  for (const [id, text] of found) if (!isPaused(text) || (await describe(ports, id, undefined)) === text) lasting.set(id, text);
  return lasting;
}
