import { setTimeout as delay } from 'node:timers/promises';
import { acceptEdgeReport } from '../../ledger/edges/accept-edge-report.ts';
import { numberEvents } from '../../ledger/events/number-events.ts';
import { readMachines } from '../../ledger/hosts/read-machines.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { HostId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { endless, type FakeSite, openFakeSite } from '../../test/sagas/fake-site.ts';
import { freePort } from '../../test/services/child.ts';
import { startPostgresServer } from '../../test/services/postgres-server.ts';
import { startTemporalServer } from '../../test/services/temporal-server.ts';
import { logProgress, printFigure } from '../figures.ts';
import { statementsSent } from './task-life.ts';

/**
 * `npm run bench -- scale --modes upkeep`: what a site does when nothing is asked of it, as requests to Temporal and statements
 * to PostgreSQL a second. Fake hosts under the real workflows and ledger, at a fifth of every interval, so that a reconciliation
 * of five minutes comes every minute; each of four small sites differs from one before in one number, and the difference
 * of their counts is what a host, a task that runs, and a VM that runs cost. docs/scale.md multiplies them.
 */

const pace = 0.2;
/** Ten minutes of a site: two reconciliations, and a sweep. */
const measuredS = 120;
/** What begins with the site is over. */
const settleS = 15;

interface Size {
  hosts: number;
  tasks: number;
  vms: number;
}

const sizes: Record<'small' | 'hosts' | 'tasks' | 'vms', Size> = {
  small: { hosts: 3, tasks: 0, vms: 0 },
  hosts: { hosts: 13, tasks: 0, vms: 0 },
  tasks: { hosts: 3, tasks: 20, vms: 0 },
  vms: { hosts: 3, tasks: 0, vms: 20 },
};

/** A second of a site, by the operation of Temporal's frontend; `sql`: statements, with BEGIN and COMMIT. */
type Rates = Map<string, number>;

export async function benchUpkeep(): Promise<void> {
  const rates: Record<string, Rates> = {};
  for (const [name, size] of Object.entries(sizes)) {
    rates[name] = await measureSite(size);
    logProgress(`${size.hosts} hosts, ${size.tasks} tasks, ${size.vms} VMs: ${describe(rates[name])}`);
  }
  const { small, hosts, tasks, vms } = rates as Record<keyof typeof sizes, Rates>;
  const perHost = difference(hosts, small, sizes.hosts.hosts - sizes.small.hosts);
  print('host', perHost);
  print('task', difference(tasks, small, sizes.tasks.tasks));
  print('vm', difference(vms, small, sizes.vms.vms));
  print('site', new Map([...small].map(([name, rate]) => [name, rate - sizes.small.hosts * (perHost.get(name) ?? 0)])));
}

const requestsOf = (rates: Rates): number =>
  [...rates].reduce((sum, [name, rate]) => (name === 'sql' || name.startsWith('Poll') ? sum : sum + rate), 0);

const describe = (rates: Rates): string =>
  `${requestsOf(rates).toFixed(3)} requests/s, ${rates.get('sql')!.toFixed(3)} statements/s (${[...rates]
    .filter(([name, rate]) => name !== 'sql' && Math.abs(rate) >= 0.0005)
    .toSorted(([, a], [, b]) => b - a)
    .map(([name, rate]) => `${name} ${rate.toFixed(4)}`)
    .join(', ')})`;

function print(what: string, rates: Rates): void {
  logProgress(`a second of each ${what}: ${describe(rates)}`);
  printFigure(`scale.upkeep.${what}.temporal`, requestsOf(rates), 'requests/s', null, { byOperation: Object.fromEntries(rates) });
  printFigure(`scale.upkeep.${what}.sql`, rates.get('sql') ?? 0, 'statements/s', null);
}

function difference(more: Rates, less: Rates, by: number): Rates {
  const names = new Set([...more.keys(), ...less.keys()]);
  return new Map([...names].map((name) => [name, ((more.get(name) ?? 0) - (less.get(name) ?? 0)) / by]));
}

async function measureSite(size: Size): Promise<Rates> {
  const metricsPort = await freePort();
  const [postgres, temporal] = await Promise.all([
    startPostgresServer(),
    startTemporalServer(['--metrics-port', String(metricsPort)]),
  ]);
  process.env.DATABASE_URL = postgres.url;
  process.env.TEMPORAL_ADDRESS = temporal.address;
  try {
    const site = await openFakeSite({
      hosts: size.hosts,
      pace,
      maxHeartbeatThrottleInterval: '60s',
      run: () => ({ exitCode: 0, durationMs: endless, log: '', files: {} }),
    });
    try {
      await fill(site, size);
      await delay(settleS * 1000);
      return await measure(site, metricsPort);
    } finally {
      await site.stop();
    }
  } finally {
    await Promise.all([postgres.stop(), temporal.stop()]);
  }
}

async function fill(site: FakeSite, { tasks, vms }: Size): Promise<void> {
  await site.startPlanner();
  await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [site.pace],
  });
  const image = await site.publishImage();
  for (let i = 0; i < tasks; i += 1)
    await site.submit({ image, lease: { kind: 'bestEffort', durationS: 86_400 }, timeoutS: 86_400 });
  for (let i = 0; i < vms; i += 1) {
    const order = VmRequest.parse({ name: `vm${i}`, image });
    const id = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
    await site.client.workflow.start(workflowType.vm, {
      taskQueue: controlQueue,
      workflowId: workflowId.vm(id),
      args: [id, site.pace],
    });
  }
  await site.until('all runs', async () => (await site.ledger.vm.count({ where: { state: 'running' } })) === tasks + vms);
}

async function measure(site: FakeSite, metricsPort: number): Promise<Rates> {
  const read = async () => new Map([...(await frontendRequests(metricsPort)), ['sql', sqlSent()]]);
  const before = await read();
  await delay(measuredS * 1000);
  const after = await read();
  // The site lives 1 / pace times as fast.
  const rates = new Map([...after].map(([name, n]) => [name, ((n - (before.get(name) ?? 0)) * pace) / measuredS]));
  await printSteps(site);
  return rates;
}

function sqlSent(): number {
  const { statements, frames } = statementsSent();
  return statements + frames;
}

/** Requests to Temporal's frontend until now, by operation. */
async function frontendRequests(port: number): Promise<Map<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const counts = new Map<string, number>();
  for (const [, labels = '', value = '0'] of text.matchAll(/^service_requests\{([^}]*)\} (\S+)$/gm)) {
    const operation = /operation="([^"]+)"/.exec(labels)?.[1];
    if (operation === undefined || !labels.includes('service_name="frontend"') || !labels.includes('namespace="berth_')) continue;
    counts.set(operation, (counts.get(operation) ?? 0) + Number(value));
  }
  return counts;
}

/** What does not follow the pace: statements of one call, which is made at intervals of its own. */
async function printSteps(site: FakeSite): Promise<void> {
  const host = site.hosts[0]!.id as HostId;
  const nowMs = Date.now();
  const report = { address: '192.0.2.9', problem: null, turn: null, epoch: null, version: null, ports: null };
  const steps: Record<string, () => Promise<unknown>> = {
    'host.machines (every 10 s)': () => readMachines(site.ledger, host, ''),
    'api.numberEvents (every second)': () => numberEvents(site.ledger),
    'edge.exchange (several a second)': () =>
      acceptEdgeReport(site.ledger, { edge: 'edge1', report, publicAddresses: [], nowMs }),
  };
  for (const [name, step] of Object.entries(steps)) {
    await step();
    const before = sqlSent();
    await step();
    logProgress(`  ${name}: ${sqlSent() - before} statements`);
  }
}
