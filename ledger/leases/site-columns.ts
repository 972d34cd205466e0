import { BerthError } from '../../model/errors.ts';
import type { Resources } from '../../model/host.ts';
import type { RunningVm, SiteHost, SiteState } from '../../scheduler/leases/site/site-state.ts';
import type { SiteRow } from './site-row.ts';

/**
 * The columns in which a site's hosts and VMs are read: a text for each, with an element for each row. A hundred thousand
 * objects would take PostgreSQL and this process seconds.
 */

const elements = (column: string): string[] => column.split(' ');

function numbers(name: string, column: string): number[] {
  return elements(column).map((text) => {
    const value = Number(text);
    if (text === '' || !Number.isFinite(value)) throw new BerthError('internal', `BUG: ${name} is ${JSON.stringify(text)}`);
    return value;
  });
}

/** The columns of one table as numbers, which have to be equally long. */
function numbersOf<C extends Record<string, string>>(columns: C, rows: number): Record<keyof C, number[]> {
  const entries = Object.entries(columns).map(([name, column]) => [name, numbers(name, column)] as const);
  const other = entries.find(([, values]) => values.length !== rows);
  if (other !== undefined) throw new BerthError('internal', `BUG: ${other[0]} has ${other[1].length} of ${rows} rows`);
  return Object.fromEntries(entries) as Record<keyof C, number[]>;
}

/** The hosts by id, and what VMs use of each, by the ledger's own sums. */
export function hostsOf({ hosts: columns, vacant }: SiteRow): { hosts: SiteHost[]; used: Map<string, Resources> } {
  if (columns === null) return { hosts: [], used: new Map() };
  const { id, ...rest } = columns;
  const ids = elements(id);
  const of = numbersOf(rest, ids.length);
  const vacancies = new Map(vacant.map(({ host, ...interval }) => [host, interval]));
  const hosts = ids.map((host, i): SiteHost => {
    return {
      id: host,
      capacity: { vcpus: of.vcpus[i]!, memoryMiB: of.memoryMiB[i]!, diskMiB: of.diskMiB[i]! },
      answers: of.up[i] === 1,
      up: of.up[i] === 1 && of.schedulable[i] === 1,
      slowness: of.slowness[i]!,
      vacant: vacancies.get(host) ?? null,
    };
  });
  const used = ids.map((host, i): [string, Resources] => [
    host,
    { vcpus: of.usedVcpus[i]!, memoryMiB: of.usedMemoryMiB[i]!, diskMiB: of.usedDiskMiB[i]! },
  ]);
  return { hosts, used: new Map(used) };
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
