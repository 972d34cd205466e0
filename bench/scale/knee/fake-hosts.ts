import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { Agent } from 'undici';
import { guard } from '../../../activities/failure.ts';
import { byReference } from '../../../activities/host/by-reference.ts';
import { createHostActivities } from '../../../activities/host/index.ts';
import { watchDomains } from '../../../activities/host/site/watch-domains.ts';
import { inLanes } from '../../../activities/host/step-lanes.ts';
import type { HostActivities } from '../../../contracts/host.ts';
import { createFakeHost, type FakeHost } from '../../../drivers/fake/host.ts';
import { createFakeRepository } from '../../../drivers/fake/repository.ts';
import { systemClock } from '../../../drivers/host/clock.ts';
import { createMachineList } from '../../../drivers/transfer/machine-list.ts';
import { openRepository } from '../../../drivers/transfer/repository.ts';
import { openStepArgs } from '../../../drivers/transfer/step-args.ts';
import type { HostFacts } from '../../../model/host.ts';
import type { VmId } from '../../../model/ids.ts';
import { openLog } from '../../../model/log.ts';
import { hostQueue } from '../../../model/temporal.ts';
import { heartbeatThrottle, hostLimits } from '../../../workers/host-limits.ts';
import { strictBudget } from '../../../workers/payload-budget.ts';
import { registerHost } from '../../../workers/register-host.ts';
import { startRepeating } from '../../../workers/repeat.ts';
import { reportDomains } from '../../../workers/report-domains.ts';

/** A host of a filled ledger, and the VMs that it has to report so that the ledger finds it in order. */
export interface FilledHost {
  facts: HostFacts;
  key: string;
  vms: string[];
}

/** What a process of fake hosts is sent first. */
export interface HostsSetup {
  temporal: string;
  namespace: string;
  apiUrl: string;
  /** Files of this process are here. */
  folder: string;
  /** How long a command takes. */
  commandMs: number;
  hosts: FilledHost[];
}

/** As a process of the benchmark says it: how many of its hosts have registered. */
export interface HostsReport {
  registered: number;
}

/** Each has a connection of its own: all requests of one share its HTTP/2 flow control. */
const hostsPerConnection = 100;
const registrationsAtOnce = 8;

/**
 * A process of fake hosts under the real worker of each: the SDK's polls and heartbeats, steps whose arguments come from the API, logs
 * and outputs that go there, questions for the site's machines, and watched domains. The machines alone are fakes, in memory. Samples
 * of load are left out: they would cost these processes more than the site.
 */
async function run(order: HostsSetup): Promise<void> {
  Runtime.install({ logger: new DefaultLogger('ERROR'), telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } } });
  const left = [...order.hosts];
  let registered = 0;
  const starter = async (connection: NativeConnection, hosts: FilledHost[]): Promise<void> => {
    for (let host = hosts.shift(); host !== undefined; host = hosts.shift()) {
      await startHost(order, host, connection);
      registered += 1;
      process.send!({ registered } satisfies HostsReport);
    }
  };
  while (left.length > 0) {
    const connection = await NativeConnection.connect({ address: order.temporal });
    const hosts = left.splice(0, hostsPerConnection);
    await Promise.all(Array.from({ length: registrationsAtOnce }, () => starter(connection, hosts)));
  }
}

async function startHost(order: HostsSetup, { facts, key, vms }: FilledHost, connection: NativeConnection): Promise<void> {
  const { temporal: _, namespace, apiUrl, folder, commandMs } = order;
  const log = openLog('knee', 'error', { hostId: facts.hostId });
  const keyFile = join(folder, `${facts.hostId}.key`);
  await writeFile(keyFile, key);
  const dispatcher = new Agent();
  const machines = createMachineList();
  const { fetchStepArgs, updateMachines } = openStepArgs(
    dispatcher,
    { repositoryUrl: apiUrl, hostId: facts.hostId, keyFile },
    machines,
  );
  const host = fakeMachine(facts, commandMs);
  host.ports.repository = openRepository(dispatcher);
  const activities: HostActivities = {
    ...createHostActivities(host.ports),
    observeHost: async () => facts,
  };
  const { observeInventory } = activities;
  activities.observeInventory = async () => withFilled(await observeInventory(), vms);
  const worker = await Worker.create({
    connection,
    namespace,
    dataConverter: strictBudget(),
    taskQueue: hostQueue(facts.hostId),
    activities: guard(byReference(inLanes(activities), fetchStepArgs)),
    ...hostLimits,
    ...heartbeatThrottle,
  });
  const client = new Client({ connection, namespace, dataConverter: strictBudget() });
  await registerHost({ client, hostId: facts.hostId, observe: async () => facts, log });
  void worker.run();
  startRepeating({
    step: () => updateMachines(AbortSignal.timeout(30_000)).then(() => 'done'),
    intervalMs: () => machines.intervalMs(),
    log,
    failure: 'the list of machines could not be fetched',
    level: 'warn',
  });
  const { signal } = new AbortController();
  // What the ledger was filled with has no workflow to notify.
  const report = (ids: VmId[]) => reportDomains(client, facts.hostId, ids, log);
  void watchDomains(host.ports, { report, signal, clock: systemClock });
}

function fakeMachine({ hostId, address, images }: HostFacts, commandMs: number): FakeHost {
  const host = createFakeHost({
    id: hostId,
    address,
    repository: createFakeRepository(),
    clock: systemClock,
    run: () => ({ exitCode: 0, durationMs: commandMs, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  host.ports.templates.find = async () => 'retired';
  for (const id of images) host.images.set(id, { boots: true, pinnedUntilMs: 0 });
  return host;
}

async function withFilled(found: Awaited<ReturnType<HostActivities['observeInventory']>>, vms: string[]) {
  const filled = vms as VmId[];
  return {
    ...found,
    domains: [...found.domains, ...filled.map((vmId) => ({ name: vmId, vmId, state: 'running' }))],
    disks: [...found.disks, ...filled.map((vmId) => ({ vmId, generation: 1, bytes: 0 }))],
  };
}

// An order comes once; the process ends with the one that started it.
process.once('disconnect', () => process.exit(0));
const [order] = (await once(process, 'message')) as [HostsSetup];
await run(order);
