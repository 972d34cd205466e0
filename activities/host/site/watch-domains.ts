import type { Clock } from '../../../drivers/ports/clock.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { isId, type VmId } from '../../../model/ids.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { observeEnd } from '../vm/domain-end.ts';
import { observeWithoutEnd } from './observe-domains.ts';
import { observedPauses } from './observed-pauses.ts';
import { SilentGuests } from './silent-guests.ts';

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
  const silent = new SilentGuests(ports, { clock, signal, onChange: (id) => changes.add(id) });
  const observed = { ports, silent, paused: observedPauses(ports) };
  let reported: Reported = new Map();
  let allDueMs = clock.nowMs();
  let pollDueMs = clock.nowMs();
  while (!signal.aborted) {
    const nowMs = clock.nowMs();
    const reportsAll = nowMs >= allDueMs;
    const changed = changes.take(nowMs >= pollDueMs);
    if (changed.all) pollDueMs = nowMs + pollMs;
    if (reportsAll) [reported, allDueMs] = [new Map(), nowMs + reportAllMs];
    const found = await findChanges(observed, changed, reported, reportsAll);
    const lasting = await confirmPauses(observed, found, { clock, signal });
    if (lasting.size > 0) await report([...lasting.keys()]);
    for (const [vmId, text] of lasting) reported.set(vmId, text);
    silent.follow([...reported].flatMap(([vmId, text]) => (text.startsWith('running') ? [vmId] : [])));
    await changes.wait(Math.max(1, pollDueMs - clock.nowMs()), { clock, signal });
  }
  await watching;
}

/** The domains that the hypervisor has announced a change of; or all, those among them. */
interface ChangedDomains {
  all: boolean;
  announced: ReadonlySet<VmId>;
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

  take(all: boolean): ChangedDomains {
    const taken = { all: this.#all || all, announced: this.#ids };
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

/** What the watch observes with. */
interface Observed {
  ports: HostPorts;
  silent: SilentGuests;
  /** What the site was answered of pauses since it was looked at last. */
  paused: Set<VmId>;
}

async function findChanges(
  observed: Observed,
  { all, announced }: ChangedDomains,
  reported: Reported,
  reportsAll: boolean,
): Promise<Reported> {
  const here = await observed.ports.store.listIds();
  for (const known of all ? [reported, observed.paused] : [])
    for (const id of known.keys()) if (!here.includes(id)) known.delete(id);
  const found: Reported = new Map();
  for (const id of all ? here : announced) {
    const before = reported.get(id);
    const text = await describe(observed, id, announced.has(id) ? undefined : before);
    if (text === 'unavailable') continue;
    // What an activity is at work on, and a VM that has just started: its saga writes that. One that left has no state here.
    if (text === 'changing') reported.delete(id);
    else if (text.startsWith('running') && observed.paused.delete(id)) found.set(id, text);
    else if (text === 'left' || (text === 'running' && before === undefined && !reportsAll)) reported.set(id, text);
    // It may have run meanwhile, by its owner's order: then its saga has written that, and it is news again.
    else if (text !== before || (announced.has(id) && text !== 'running')) found.set(id, text);
  }
  return found;
}

/** A condition as text. The reason of an end stands in a file: `before` spares reading it again. */
async function describe({ ports, silent }: Observed, id: VmId, before: string | undefined): Promise<string> {
  const found = await nullIfUnavailable(() => observeWithoutEnd(ports, id));
  if (found === null) return 'unavailable';
  const { condition, unasked } = found;
  if (condition === null) return 'changing';
  if (condition === 'gone') {
    if (before === 'gone' || before === 'left') return before;
    return (await observeEnd(ports, id)) === null ? 'left' : 'gone';
  }
  if (condition.kind === 'paused') return `paused ${condition.by}`;
  return `running${unasked ? ' unasked' : ''}${silent.has(id) ? ' silent' : ''}`;
}

/** Without those that did not stay paused. */
async function confirmPauses(observed: Observed, found: Reported, watch: Omit<DomainWatch, 'report'>): Promise<Reported> {
  const isPaused = (text: string): boolean => text.startsWith('paused');
  if (![...found.values()].some(isPaused)) return found;
  // An abort is noticed by the caller.
  await watch.clock.sleep(confirmMs, watch.signal).catch(() => undefined);
  const lasting: Reported = new Map();
  for (const [id, text] of found)
    if (!isPaused(text) || (await describe(observed, id, undefined)) === text) lasting.set(id, text);
  return lasting;
}
