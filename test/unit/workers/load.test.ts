import { describe, expect, it, onTestFinished } from 'vitest';
import { createFakeHost } from '../../../drivers/fake/host.ts';
import { createFakeRepository } from '../../../drivers/fake/repository.ts';
import { newDomain } from '../../../drivers/fake/state.ts';
import { newId } from '../../../model/ids.ts';
import {
  hostLoadFields,
  type LoadBatch,
  type LoadSettings,
  loadLimits,
  valuesOf,
  vmLoadFields,
} from '../../../model/load/load.ts';
import type { WatchVerdict } from '../../../model/load/watch-verdict.ts';
import { openLog } from '../../../model/log.ts';
import type { LoadSample } from '../../../scheduler/balance/watchdog.ts';
import { LearnedUse } from '../../../workers/load/learned-use.ts';
import { watchLoad } from '../../../workers/load/watch-load.ts';

const log = openLog('test', 'error');

/** A host of two processors whose load is watched, in time that passes in an instant. */
function openWatch(
  take: (batch: LoadBatch) => void = () => undefined,
  judge: (sample: LoadSample) => WatchVerdict | null = () => null,
) {
  const host = createFakeHost({
    id: 'host1',
    repository: createFakeRepository(),
    capacity: { vcpus: 8, memoryMiB: 8192, diskMiB: 65_536 },
  });
  const settings: LoadSettings = { heartbeatS: 10, asksForHelp: false };
  const batches: LoadBatch[] = [];
  const samples: LoadSample[] = [];
  const requests: { verdict: WatchVerdict; batches: number }[] = [];
  const end = new AbortController();
  const watched = watchLoad({
    meter: host.ports.loadMeter,
    clock: host.clock,
    settings: () => settings,
    send: async (batch) => {
      batches.push(structuredClone(batch));
      take(batch);
    },
    onSample: (sample) => {
      samples.push(sample);
      return judge(sample);
    },
    ask: (verdict) => requests.push({ verdict, batches: batches.length }),
    onVmLeft: () => undefined,
    log,
    signal: end.signal,
  });
  onTestFinished(async () => {
    end.abort();
    await watched;
  });
  const addVm = (busyCpus: number, name: string = newId('vm')): string => {
    host.domains.set(name, newDomain({ name, memoryMiB: 256 } as never, 'warm', host.clock.nowMs()));
    host.loads.set(name, { busyCpus });
    return name;
  };
  const sent = (count: number) => expect.poll(() => batches.length, { interval: 1 }).toBeGreaterThanOrEqual(count);
  return { host, settings, batches, samples, requests, addVm, sent };
}

describe('the watch of a load', () => {
  it('sends three heartbeats of ten seconds in a batch, with what each VM got and waited for', async () => {
    const { addVm, batches, sent } = openWatch();
    const [busy, quiet] = [addVm(3), addVm(1)];
    addVm(0, 'not-of-berth');
    await sent(2);
    const { samples, processors, processorUse, memoryMiB } = batches[1]!;
    expect([processors, processorUse, memoryMiB]).toEqual([2, [100, 100], 8192]);
    expect(samples).toHaveLength(3);
    expect(samples.map(({ agoS }) => agoS)).toEqual([20, 10, 0]);
    const [{ durationS, host, vms }] = samples as [LoadBatch['samples'][0]];
    expect(durationS).toBe(10);
    // Four processors are wanted of two: each VM gets half, and nobody else's domain is told.
    expect(valuesOf(hostLoadFields, host)).toMatchObject({ use: 1, mostUse: 1, steal: 0.5, cpuPressure: 1, memoryMiB: 2048 });
    expect(Object.keys(vms).toSorted()).toEqual([busy, quiet].toSorted());
    expect(valuesOf(vmLoadFields, vms[busy]!)).toMatchObject({
      cpus: 1.5,
      mostCpus: 1.5,
      steal: 0.5,
      memoryMiB: 128,
      readMiBPerS: 1.5,
    });
    expect(valuesOf(vmLoadFields, vms[quiet]!)).toMatchObject({ cpus: 0.5, steal: 0.5 });
    // What it wants, also where it is not given.
    expect(batches[1]!.learned[busy]).toEqual([3, 0, 60]);
  });

  it('sends what it has before it asks for help', async () => {
    const verdict = { asks: true } as WatchVerdict;
    const { requests, batches, sent } = openWatch(
      () => undefined,
      ({ atMs }) => (Math.round(atMs / 1000) % 100 === 4 ? verdict : null),
    );
    await sent(1);
    await expect.poll(() => requests.length, { interval: 1 }).toBeGreaterThan(0);
    expect(requests[0]).toEqual({ verdict, batches: 1 });
    // Since the watch began, and no whole heartbeat.
    expect(batches[0]!.samples.map(({ durationS }) => durationS < 10)).toEqual([true]);
  });

  it('follows another interval while it runs', async () => {
    const { settings, batches, sent } = openWatch();
    await sent(1);
    settings.heartbeatS = 2;
    await sent(3);
    expect(batches.at(-1)!.samples.map(({ durationS }) => durationS)).toEqual([2, 2, 2]);
    settings.heartbeatS = 60;
    const count = batches.length;
    await sent(count + 3);
    // The longest that a sample waits for others.
    expect(batches.at(-1)!.samples.map(({ durationS }) => durationS)).toEqual([60, 60]);
  });

  it('sends a batch that was not taken again, the same one, and drops the oldest of what waits', async () => {
    let [refusals, refused] = [0, ''];
    const { batches, sent } = openWatch(({ id }) => {
      if (refusals >= 200) return;
      refusals += 1;
      refused = id;
      throw new Error('the API is away');
    });
    await sent(205);
    expect(batches.slice(0, 201).every(({ id }) => id === refused)).toBe(true);
    expect(batches[200]!.samples).toEqual(batches[0]!.samples.map((sample) => ({ ...sample, agoS: sample.agoS + 2000 })));
    const rest = batches.slice(201);
    expect(new Set(rest.map(({ id }) => id)).size).toBe(rest.length);
    expect(Math.max(...rest.map(({ samples }) => samples.length))).toBeLessThanOrEqual(loadLimits.samplesPerBatch);
    expect(rest[0]!.samples[0]!.agoS).toBeLessThanOrEqual(loadLimits.keptSamples * 10);
  });

  it('gives the watchdog a sample a second, with the steal of a busy machine', async () => {
    const { addVm, samples } = openWatch();
    addVm(1);
    await expect.poll(() => samples.length, { interval: 1 }).toBeGreaterThan(5);
    expect(samples.at(-1)).toMatchObject({ durationS: 1, use: 0.5, steal: 0, psi: { cpu: 0, memory: 0, io: 0 } });
    addVm(3);
    await expect.poll(() => samples.at(-1)?.steal, { interval: 1 }).toBeCloseTo(0.5, 1);
    expect(samples.at(-1)).toMatchObject({ durationS: 1, use: 1, psi: { cpu: 1 } });
  });

  it('goes on after a reading that failed', async () => {
    const { host, batches, sent } = openWatch();
    await sent(1);
    const { readMachine } = host.ports.loadMeter;
    host.ports.loadMeter.readMachine = async () => {
      host.ports.loadMeter.readMachine = readMachine;
      throw new Error('libvirtd was restarted');
    };
    await sent(batches.length + 2);
  });
});

it('what a VM wants is learned as a mean and a variance over hours, and forgotten with it', () => {
  const learned = new LearnedUse();
  const row = (cpus: number) => vmLoadFields.map((field) => (field === 'cpus' ? cpus : 0));
  for (let at = 0; at < 1000; at += 1) learned.observe({ vm: row(at % 2 === 0 ? 1 : 3) }, 10);
  const [mean, variance, seconds] = learned.rows().vm!;
  expect([mean, variance, seconds]).toEqual([expect.closeTo(2, 2), expect.closeTo(1, 2), 10_000]);
  learned.observe({ other: row(1) }, 10);
  expect(Object.keys(learned.rows())).toEqual(['other']);
});
