import type { FakeHost } from '../../drivers/fake/host.ts';
import { changeBalancer } from '../../ledger/load/balancer.ts';
import { acceptLoadBatch } from '../../ledger/load/record-batch.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import { hostLoadFields, vmLoadFields } from '../../model/load/load.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import type { FakeSite } from './fake-site.ts';

/** What a watchdog says after twenty seconds of overload. */
export const overloaded: WatchVerdict = {
  asks: true,
  kind: 'processors',
  confidence: 0.5,
  expectedS: 600,
  seen: { points: 20, spikeS: 8, useLimit: 1, stressedS: 20, use: 1, steal: 0.4 },
};

let reports = 0;

/** A host of four processors reports what its VMs get and wait for. */
export async function reportLoad(
  site: FakeSite,
  host: HostId,
  vms: Record<string, [cpus: number, steal: number]>,
): Promise<void> {
  const row = <F extends string>(fields: readonly F[], of: Partial<Record<F, number>>) => fields.map((field) => of[field] ?? 0);
  const busy = Object.values(vms).reduce((sum, [cpus]) => sum + cpus, 0);
  reports += 1;
  const batch = {
    id: `report-${reports}`,
    processors: 4,
    memoryMiB: 65_536,
    diskMiB: 262_144,
    processorUse: [],
    learned: Object.fromEntries(
      Object.entries(vms).map(([vm, [cpus, steal]]) => [vm, [cpus / (1 - steal), 0.04, 7200] as [number, number, number]]),
    ),
    samples: [
      {
        agoS: 0,
        durationS: 10,
        host: row(hostLoadFields, { use: Math.min(1, busy / 4) }),
        vms: Object.fromEntries(Object.entries(vms).map(([vm, [cpus, steal]]) => [vm, row(vmLoadFields, { cpus, steal })])),
      },
    ],
  };
  await acceptLoadBatch(site.ledger, host, batch, Date.now());
}

export interface Overloaded {
  host: FakeHost;
  tasks: TaskId[];
  vms: VmId[];
}

/** Two tasks that run on this host and want 4.6 of its four processors, of which the first wants the most. */
export async function overload(site: FakeSite, host: FakeHost): Promise<Overloaded> {
  const image = await site.publishImage();
  host.images.set(image, { boots: true, pinnedUntilMs: 0 });
  await site.ledger.hostImage.create({ data: { hostId: host.id, imageId: image } });
  const week = 7 * 24 * 3600;
  const order = {
    image,
    command: ['endless'],
    timeoutS: week,
    lease: { kind: 'bestEffort', durationS: week },
    resources: { vcpus: 4, memoryMiB: 256, diskMiB: 512 },
  };
  const tasks = [await site.submit(order), await site.submit(order)];
  const vms: VmId[] = [];
  for (const task of tasks) {
    await site.until(
      'it runs',
      async () => (await site.ledger.task.findUniqueOrThrow({ where: { id: task } })).state === 'running',
    );
    const vm = await site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
    if (vm.hostId !== host.id) throw new Error(`BUG: ${vm.id} was placed on ${vm.hostId}, and not where its image is`);
    vms.push(vm.id as VmId);
  }
  await reportLoad(site, host.id, { [vms[0]!]: [2, 0.2], [vms[1]!]: [1.9, 0.1] });
  return { host, tasks, vms };
}

/** A site whose balancer moves VMs, and whose hosts of these are idle. */
export async function openBalance(site: FakeSite, idle: readonly FakeHost[]): Promise<void> {
  await changeBalancer(site.ledger, { mode: 'auto' });
  for (const host of idle) await reportLoad(site, host.id, {});
}

/** The host's worker asks for help; resolves or rejects with the end of the workflow. */
export async function askForHelp(site: FakeSite, host: HostId): Promise<void> {
  const handle = await site.client.workflow.signalWithStart(workflowType.help, {
    taskQueue: controlQueue,
    workflowId: workflowId.help(host),
    args: [host, site.pace],
    signal: signalName.helpRequested,
    signalArgs: [overloaded],
  });
  await handle.result();
}
