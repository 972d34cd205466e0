import { readdir } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { WorkflowFailedError } from '@temporalio/client';
import { TerminatedFailure } from '@temporalio/common';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { VmId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { cleanRun } from '../sagas/clean-run.ts';
import { expectEmptySite, expectEverythingOrNothing, tracesOf } from '../sagas/everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from '../sagas/fake-site.ts';
import { type Call, type Fault, faults } from '../sagas/faults.ts';
import { startPostgresServer } from '../services/postgres-server.ts';
import { startTemporalServer } from '../services/temporal-server.ts';
import { type Choices, choicesOf } from './choices.ts';
import { grown, type Sample } from './flat.ts';
import type { TortureOptions } from './options.ts';

/** Lives side by side; two processors are busy with them. */
const lanes = 12;
const samples = 20;
const vmCalls: Call[] = [
  ...['reserveVm', 'issueVmSetup', 'stageIn', 'recordImageCached', 'ensureRunning', 'recordVmStarted', 'customizeVm'],
  ...['recordVmCustomized', 'removeVm', 'finishVm'],
].map((name) => ({ name, nth: 1 }));

/**
 * Creations and deletions of tasks and VMs on strict fakes, with PostgreSQL and Temporal as they are, each life with a
 * random fault at a random call. After each life nothing of it is left; at the end the ledger and the hosts agree that the
 * site is empty, and neither the heap, nor all memory of the process, nor the number of open descriptors has grown.
 */
export async function soakFakes({ runs, seed }: TortureOptions): Promise<boolean> {
  const postgres = await startPostgresServer();
  const temporal = await startTemporalServer();
  process.env.DATABASE_URL = postgres.url;
  process.env.TEMPORAL_ADDRESS = temporal.address;
  const site = await openFakeSite({ hosts: 4 });
  const startedMs = Date.now();
  try {
    const tally: Record<string, number> = {};
    const wrong: string[] = [];
    const measured: Sample[] = [];
    let next = 0;
    const lane = async (): Promise<void> => {
      for (let run = next++; run < runs; run = next++) {
        if (run % Math.ceil(runs / samples) === 0) measured.push(await sample(run));
        try {
          const end = await live(site, choicesOf(seed, run), run);
          tally[end] = (tally[end] ?? 0) + 1;
        } catch (error) {
          wrong.push(`${run}: ${(error as Error).message}`);
          console.log(JSON.stringify({ run, ok: false, error: (error as Error).message }));
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(lanes, runs) }, lane));
    await expectEmptySite(site);
    measured.push(await sample(runs));
    for (const one of measured) console.log(JSON.stringify(one));
    const growing = grown(measured);
    const flat = growing.length === 0;
    if (!flat) console.log(`from the second quarter to the last there was more than may be of ${growing.join(', ')}`);
    const seconds = Math.round((Date.now() - startedMs) / 1000);
    console.log(JSON.stringify({ name: 'torture.soak', seed, runs, wrong: wrong.length, ...tally, flat, seconds }));
    return wrong.length === 0 && flat;
  } finally {
    await site.stop();
    await temporal.stop();
    await postgres.stop();
  }
}

function live(site: FakeSite, choices: Choices, run: number): Promise<string> {
  const names = Object.keys(faults) as Fault[];
  if (choices.below(2) === 0) return liveTask(site, choices.one(cleanRun), choices.one(names), choices.below(4) === 0 ? 2 : 1);
  // No request cancels the workflow of a VM: it is told that its VM has to be removed.
  const fault = choices.one(names.filter((name) => !name.startsWith('cancelled')));
  return liveVm(site, choices.one(vmCalls), fault, run);
}

async function liveTask(site: FakeSite, call: Call, fault: Fault, nodes: number): Promise<string> {
  const id = await site.accept(nodes === 1 ? {} : { nodes });
  const workflow = workflowId.task(id);
  site.faults.plan(workflow, call, fault);
  await site.start(id);
  const state = await endOf(site, workflow);
  if (fault === 'late' && site.faults.fired(workflow)) await site.faults.runLate(workflow);
  await expectEverythingOrNothing(site, id);
  site.faults.forget(workflow);
  return `task ${state}`;
}

async function liveVm(site: FakeSite, call: Call, fault: Fault, run: number): Promise<string> {
  const image = await site.publishImage();
  const order = VmRequest.parse({ name: `soak-${run}`, image, firstBoot: ['true'] });
  const id: VmId = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
  const workflow = workflowId.vm(id);
  site.faults.plan(workflow, call, fault);
  await site.client.workflow.start(workflowType.vm, {
    taskQueue: controlQueue,
    workflowId: workflow,
    args: [id, site.pace],
  });
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id } });
  await site.until(`${id} is made or undone`, async () => {
    const { state, hostKey } = await row();
    return state === 'removed' || (state === 'running' && hostKey !== null);
  });
  const end = (await row()).state === 'removed' ? 'vm undone' : 'vm made';
  await site.ledger.vm.update({ where: { id }, data: { removalRequestedAt: new Date() } });
  // It may have ended meanwhile, undone.
  await site.client.workflow
    .getHandle(workflow)
    .signal(signalName.operationRequested)
    .catch(() => undefined);
  await endOf(site, workflow);
  if (fault === 'late' && site.faults.fired(workflow)) await site.faults.runLate(workflow);
  const { state } = await row();
  const traces = tracesOf(site, [id]);
  if (state !== 'removed' || traces.length > 0) throw new Error(`${id} is ${state} after ${fault} of ${call.name}: ${traces}`);
  const removed = await site.ledger.event.count({ where: { subject: id, type: 'berth.vm.removed' } });
  if (removed !== 1) throw new Error(`${id} reported its removal ${removed} times after ${fault} of ${call.name}`);
  site.faults.forget(workflow);
  return end;
}

/** The result of a workflow, of its next run where a fault ends one from outside: the housekeeping starts it again. */
async function endOf(site: FakeSite, workflow: string): Promise<unknown> {
  for (;;) {
    try {
      return await site.client.workflow.getHandle(workflow).result();
    } catch (error) {
      if (!(error instanceof WorkflowFailedError && error.cause instanceof TerminatedFailure)) throw error;
      await site.until(`${workflow} is started again`, async () => site.faults.restarted(workflow));
    }
  }
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

async function sample(run: number): Promise<Sample> {
  collect();
  const { heapUsed, rss } = process.memoryUsage();
  const mib = (bytes: number): number => Math.round(bytes / 2 ** 20);
  // The listing's own descriptor is one of them, each time.
  return { run, heapMiB: mib(heapUsed), rssMiB: mib(rss), descriptors: (await readdir('/proc/self/fd')).length };
}
