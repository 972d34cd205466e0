import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ColdCopyPass,
  coldCopyJob,
  convergencePolicy,
  convergencePolicyFor,
  decideConvergence,
  type MigrationJob,
  migrationEtaS,
  migrationTransitions,
} from '../../../model/migration.ts';
import type { MigrationAction, SourceView, TargetView } from '../../../workflows/migration/decision-table.ts';
import {
  decideMigration,
  jobViews,
  migrationActions,
  sourceView,
  sourceViews,
  targetView,
  targetViews,
} from '../../../workflows/migration/decision-table.ts';

const everything = sourceViews.flatMap((source) =>
  targetViews.flatMap((target) => jobViews.map((job) => ({ source, target, job, action: decideMigration(source, target, job) }))),
);

describe('the decision table', () => {
  it('has an answer for everything that can be observed', () => {
    expect(everything).toHaveLength(6 * 6 * 3);
    for (const { action } of everything) expect(migrationActions).toContain(action);
  });

  it('changes nothing while one side is unknown', () => {
    for (const { source, target, action } of everything)
      if (source === 'unknown' || target === 'unknown') expect(action).toBe('observe');
  });

  it('changes nothing while a job may be running', () => {
    for (const { source, target, job, action } of everything) {
      if (job === 'none' || source === 'gone') continue;
      expect(action).toBe(source === 'running' && target === 'running' ? 'alarm' : 'observe');
    }
  });

  it('lets the target run only when the source is gone', () => {
    const resumed = everything.filter(({ action }) => action === 'resumeTarget');
    expect(new Set(resumed.map(({ source }) => source))).toEqual(new Set(['gone']));
    expect(new Set(resumed.map(({ target }) => target))).toEqual(new Set(['arrived']));
  });

  it('resumes the source only when there is nothing at the target', () => {
    for (const { target, action } of everything)
      if (action === 'resumeSource' || action === 'stayed') expect(target).toBe('absent');
  });

  it('never ends a VM that runs, nor its last copy', () => {
    for (const { source, target, action } of everything) {
      if (action === 'removeSource') {
        expect(['switching', 'dead']).toContain(source);
        expect(['arrived', 'running']).toContain(target);
      }
      if (action === 'removeTarget') {
        expect(target).not.toBe('running');
        if (target === 'arrived') expect(source).toBe('running');
      }
    }
  });

  it('commits and gives up only on what was observed on both sides', () => {
    for (const { source, target, action } of everything) {
      if (action === 'committed') expect([source, target]).toEqual(['gone', 'running']);
      if (action === 'lost') {
        expect(['gone', 'dead']).toContain(source);
        expect(['absent', 'dead']).toContain(target);
      }
    }
  });

  it('of a guest that was paused resumes neither domain, and ends a paused copy once the other is complete', () => {
    for (const source of sourceViews)
      for (const target of targetViews) {
        const action = decideMigration(source, target, 'none', true);
        if (source === 'paused' || target === 'arrived') expect(action).not.toBe('resumeTarget');
        if (source === 'paused') expect(action).not.toBe('resumeSource');
        if (action === 'removeSource') expect(['arrived', 'running']).toContain(target);
        if (action === 'removeSource') expect(source).not.toBe('running');
        if (action === 'committed') expect([source, ['arrived', 'running'].includes(target)]).toEqual(['gone', true]);
        if (action === 'stayed') expect(target).toBe('absent');
      }
    const decided = ([source, target]: [SourceView, TargetView]) => decideMigration(source, target, 'none', true);
    expect([decided(['paused', 'absent']), decided(['gone', 'arrived'])]).toEqual(['stayed', 'committed']);
    expect([decided(['paused', 'arrived']), decided(['paused', 'incoming'])]).toEqual(['removeSource', 'removeTarget']);
  });

  /** Each was observed on real hypervisors. */
  const seen: [string, SourceView, TargetView, MigrationAction][] = [
    ['the migration was cancelled', 'running', 'absent', 'stayed'],
    ['it was cancelled, the target keeps its copy', 'running', 'arrived', 'removeTarget'],
    ['all went well, the target waits', 'gone', 'arrived', 'resumeTarget'],
    ['all went well', 'gone', 'running', 'committed'],
    ['the source’s libvirtd was killed in the finish phase', 'switching', 'arrived', 'removeSource'],
    ['both run', 'running', 'running', 'alarm'],
  ];
  it.each(seen)('%s', (_, source, target, action) => {
    expect(decideMigration(source, target, 'none')).toBe(action);
  });

  /** The result of each action, when it succeeds. */
  const effect: Partial<Record<MigrationAction, (s: SourceView, t: TargetView) => [SourceView, TargetView]>> = {
    resumeTarget: (s) => [s, 'running'],
    removeTarget: (s) => [s, 'absent'],
    resumeSource: (_, t) => ['running', t],
    removeSource: (_, t) => ['gone', t],
  };
  it('ends in a few steps from every state in which nothing is unknown or in progress', () => {
    for (const { source, target, action } of everything) {
      let [s, t, next]: [SourceView, TargetView, MigrationAction] = [source, target, action];
      for (let steps = 0; effect[next] !== undefined; steps += 1) {
        expect(steps).toBeLessThan(3);
        [s, t] = effect[next]!(s, t);
        next = decideMigration(s, t, 'none');
      }
      expect(['committed', 'stayed', 'lost', 'observe', 'alarm']).toContain(next);
    }
  });
});

describe('the observed state', () => {
  it('of the source', () => {
    expect(sourceView('unknown')).toBe('unknown');
    expect(sourceView(null)).toBe('gone');
    expect(sourceView({ state: 'running', reason: 'migration canceled' })).toBe('running');
    expect(sourceView({ state: 'paused', reason: 'migrating' })).toBe('switching');
    expect(sourceView({ state: 'paused', reason: 'I/O error' })).toBe('paused');
    expect(sourceView({ state: 'shutoff', reason: 'migrated' })).toBe('gone');
    expect(sourceView({ state: 'shutoff', reason: 'crashed' })).toBe('dead');
    expect(sourceView({ state: 'crashed', reason: 'panicked' })).toBe('dead');
  });
  it('of the target', () => {
    expect(targetView('unknown')).toBe('unknown');
    expect(targetView(null)).toBe('absent');
    expect(targetView({ state: 'paused', reason: 'migrating' })).toBe('incoming');
    expect(targetView({ state: 'paused', reason: 'starting up' })).toBe('incoming');
    expect(targetView({ state: 'paused', reason: 'user' })).toBe('arrived');
    expect(targetView({ state: 'running', reason: 'migrated' })).toBe('running');
    expect(targetView({ state: 'crashed', reason: 'panicked' })).toBe('dead');
    // A foreign definition of the same name, which runs nothing.
    expect(targetView({ state: 'shutoff', reason: 'unknown' })).toBe('absent');
  });
});

const job: MigrationJob = {
  active: true,
  elapsedMs: 0,
  totalBytes: 256 * 2 ** 20,
  processedBytes: 0,
  remainingBytes: 50 * 2 ** 20,
  dirtyBytesPerS: 10 * 2 ** 20,
  bytesPerS: 20 * 2 ** 20,
};

describe('convergence', () => {
  it('raises the downtime limit step by step, never lowers it, within its bounds, until the deadline', () => {
    fc.assert(
      fc.property(fc.nat(200_000), fc.nat(10_000), (atMs, moreMs) => {
        const [early, late] = [
          decideConvergence(convergencePolicy, atMs, job),
          decideConvergence(convergencePolicy, atMs + moreMs, job),
        ];
        expect(early.kind).toBe(atMs < convergencePolicy.deadlineMs ? 'goOn' : 'giveUp');
        if (early.kind === 'goOn') {
          expect(early.downtimeMs).toBeGreaterThanOrEqual(convergencePolicy.initialDowntimeMs);
          expect(early.downtimeMs).toBeLessThanOrEqual(convergencePolicy.maxDowntimeMs);
        }
        if (early.kind === 'goOn' && late.kind === 'goOn') expect(late.downtimeMs).toBeGreaterThanOrEqual(early.downtimeMs);
      }),
    );
  });
  it('reports why it gives up', () => {
    expect(decideConvergence(convergencePolicy, 1000, job)).toEqual({ kind: 'goOn', downtimeMs: 165 });
    expect(decideConvergence(convergencePolicyFor({ accelerator: 'kvm', unalignedMemory: false }, 120), 0, job)).toEqual({
      kind: 'goOn',
      downtimeMs: 30,
    });
    expect(decideConvergence(convergencePolicyFor({ accelerator: 'qemu', unalignedMemory: true }, 120), 0, job)).toEqual({
      kind: 'goOn',
      downtimeMs: 30,
    });
    expect(decideConvergence(convergencePolicyFor({ accelerator: 'qemu', unalignedMemory: false }, 120), 0, job)).toEqual({
      kind: 'goOn',
      downtimeMs: 300,
    });
    expect(decideConvergence(convergencePolicy, 7000, job)).toEqual({ kind: 'goOn', downtimeMs: 600 });
    expect(decideConvergence(convergencePolicy, 120_000, job)).toEqual({
      kind: 'giveUp',
      reason: 'the guest writes 10 MiB/s, 20 MiB/s are transferred, 50 MiB are left after 120 s',
    });
  });
  it('expects an end only where the network is faster than the guest', () => {
    expect(migrationEtaS(job)).toBe(5);
    expect(migrationEtaS({ ...job, dirtyBytesPerS: job.bytesPerS })).toBeNull();
  });
  it('waits as long as the request specified', () => {
    expect(decideConvergence(convergencePolicyFor({ accelerator: 'qemu', unalignedMemory: true }, 5), 4999, job).kind).toBe(
      'goOn',
    );
    expect(decideConvergence(convergencePolicyFor({ accelerator: 'qemu', unalignedMemory: true }, 5), 5000, job).kind).toBe(
      'giveUp',
    );
  });
});

describe('a cold copy', () => {
  const course = { totalBytes: 300, passes: 3, endedPasses: 0, firstPassMs: null, elapsedMs: 0 };
  const pass: ColdCopyPass = { kind: 'pack', from: null, doneBytes: 0, totalBytes: 300, elapsedMs: 2000 };

  it('predicts for each remaining pass the time of the first, and nothing before there is progress', () => {
    expect(migrationEtaS(coldCopyJob(course, pass))).toBeNull();
    // Half of 4 s, and 4 s for each of the other two.
    const half = coldCopyJob(course, { ...pass, doneBytes: 150 });
    expect([half.processedBytes, half.remainingBytes, migrationEtaS(half)]).toEqual([50, 250, 10]);
  });

  it('uses the rate of the network as soon as bytes were sent', () => {
    const fetching = { ...course, endedPasses: 1, firstPassMs: 4000 };
    // A pack of 100 bytes, a quarter of which arrived in 5 s; then 4 s to unpack it.
    const job = coldCopyJob(fetching, { kind: 'fetch', from: 'a', doneBytes: 25, totalBytes: 100, elapsedMs: 5000 });
    expect([job.processedBytes, job.remainingBytes, migrationEtaS(job)]).toEqual([125, 175, 20]);
  });

  it('never has progress beyond its end, and only gets nearer to it', () => {
    fc.assert(
      fc.property(fc.nat(2 ** 40), fc.integer({ min: 1, max: 6 }), fc.nat(450), (bytes, passes, doneBytes) => {
        let last = 0;
        for (let endedPasses = 0; endedPasses < passes; endedPasses += 1) {
          const job = coldCopyJob({ ...course, totalBytes: bytes, passes, endedPasses }, { ...pass, doneBytes });
          expect(job.processedBytes + job.remainingBytes).toBe(bytes);
          expect(job.remainingBytes).toBeGreaterThanOrEqual(0);
          expect(job.processedBytes).toBeGreaterThanOrEqual(last);
          for (const figure of Object.values(job))
            if (typeof figure === 'number') expect(Number.isSafeInteger(figure)).toBe(true);
          last = job.processedBytes;
        }
      }),
    );
  });
});

it('a migration ends in exactly two states, also one that was stuck', () => {
  expect(migrationTransitions.stuck).toEqual(['succeeded', 'rolledBack']);
  expect(migrationTransitions.succeeded).toEqual([]);
  expect(migrationTransitions.rolledBack).toEqual([]);
});
