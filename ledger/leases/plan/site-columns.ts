import { BerthError } from '../../../model/errors.ts';
import type { Resources } from '../../../model/host.ts';
import type { RunningVm, SiteHost, SiteState } from '../../../scheduler/leases/site/site-state.ts';
import type { SiteRow } from './site-row.ts';

/**
 * The columns in which a site's hosts and VMs are read: a text for each, with an element for each row. A hundred thousand
 * objects would take PostgreSQL and this process seconds.
 */

const elements = (column: string): string[] => column.split(' ');

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value)) throw new BerthError('internal', `BUG: ${name} has ${JSON.stringify(text)}`);
  return value;
}

const numbers = (name: string, column: string): number[] => elements(column).map((text) => numberOf(name, text));

/** The columns of one table as numbers, which have to be equally long. */
function numbersOf<C extends Record<string, string>>(columns: C, rows: number): Record<keyof C, number[]> {
  const entries = Object.entries(columns).map(([name, column]) => [name, numbers(name, column)] as const);
  const other = entries.find(([, values]) => values.length !== rows);
  if (other !== undefined) throw new BerthError('internal', `BUG: ${other[0]} has ${other[1].length} of ${rows} rows`);
  return Object.fromEntries(entries) as Record<keyof C, number[]>;
}

interface SiteHosts {
  hosts: SiteHost[];
  used: Map<string, Resources>;
  allocations: Map<string, number>;
}

/** Of each host, in this order, after its id. */
const hostValues = 10;

/** The hosts by id; what VMs use of each, by the ledger's own sums; and how often something has begun to. */
export function hostsOf({ hosts: text, vacant }: Pick<SiteRow, 'hosts' | 'vacant'>): SiteHosts {
  const found: SiteHosts = { hosts: [], used: new Map(), allocations: new Map() };
  if (text === null) return found;
  const all = elements(text);
  const stride = 1 + hostValues;
  if (all.length % stride !== 0) throw new BerthError('internal', `BUG: the hosts have ${all.length} values, ${stride} each`);
  const vacancies = new Map(vacant.map(({ host, ...interval }) => [host, interval]));
  for (let at = 0; at < all.length; at += stride) {
    const id = all[at]!;
    const value = (n: number): number => numberOf(id, all[at + n]!);
    const [answers, schedulable] = [value(7) === 1, value(8) === 1];
    found.hosts.push({
      id,
      capacity: { vcpus: value(1), memoryMiB: value(2), diskMiB: value(3) },
      answers,
      up: answers && schedulable,
      slowness: value(9),
      vacant: vacancies.get(id) ?? null,
    });
    found.used.set(id, { vcpus: value(4), memoryMiB: value(5), diskMiB: value(6) });
    found.allocations.set(id, value(10));
  }
  return found;
}

export function runningVms(columns: SiteRow['running']): RunningVm[] {
  if (columns === null) return [];
  const { host: names, ...rest } = columns;
  const hosts = elements(names);
  const of = numbersOf(rest, hosts.length);
  return hosts.map((host, i) => ({
    host,
    each: { vcpus: of.vcpus[i]!, memoryMiB: of.memoryMiB[i]!, diskMiB: of.diskMiB[i]! },
    runFromS: of.runFromS[i]!,
    leftS: of.leftS[i]!,
    preemptible: of.preemptible[i] === 1,
  }));
}

/** What is used of each host beside what the plan has as leases. */
export function takenForEver(used: ReadonlyMap<string, Resources>, listed: SiteRow['listedUse']): SiteState['taken'] {
  const rest = new Map([...used].map(([host, each]) => [host, { ...each }]));
  for (const { host, each } of listed) {
    const of = rest.get(host);
    if (of === undefined) throw new BerthError('internal', `BUG: VMs are on the host ${host}, which the ledger does not have`);
    of.vcpus -= each.vcpus;
    of.memoryMiB -= each.memoryMiB;
    of.diskMiB -= each.diskMiB;
  }
  return [...rest].map(([host, each]) => ({ host, each }));
}
