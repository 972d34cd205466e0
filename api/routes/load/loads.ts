import type { z } from 'zod';
import { readBusyVms } from '../../../ledger/load/read-busy-vms.ts';
import { type LoadPoints, type LoadRange, readHostLoad, readLatestLoads, readVmLoad } from '../../../ledger/load/read-loads.ts';
import { BerthError } from '../../../model/errors.ts';
import { hostLoadFields, keptMs, valuesOf, vmLoadFields } from '../../../model/load/load.ts';
import type { ApiDeps } from '../../deps.ts';
import { json, streamed } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { Id } from '../../schemas/common.ts';
import {
  BusiestQuery,
  BusyHosts,
  BusyVms,
  HostLoadSeries,
  LoadQuery,
  loadAnswerLimits,
  VmLoadSeries,
} from '../../schemas/load/loads.ts';
import { openMetricsOf } from './vm-metrics.ts';

const hourMs = 3_600_000;
/** How many points a series has where no step is asked for, and the shortest step. */
const defaults = { points: 360, stepS: 10 } as const;

function rangeOf({ from, to, step }: z.output<typeof LoadQuery>, nowMs: number): LoadRange {
  // What is later than now, or kept no longer, has no points, whatever its year is.
  const untilMs = Math.min(nowMs + hourMs, to === undefined ? nowMs : Date.parse(to));
  const fromMs = Math.max(nowMs - keptMs.hour - hourMs, from === undefined ? untilMs - hourMs : Date.parse(from));
  if (untilMs <= fromMs)
    throw new BerthError('bad-request', 'Found a range that ends where it begins, or before; expected `from` before `to`');
  const stepS = step ?? Math.max(defaults.stepS, Math.ceil((untilMs - fromMs) / 1000 / defaults.points));
  const steps = Math.ceil((untilMs - fromMs) / 1000 / stepS);
  if (steps > loadAnswerLimits.points)
    throw new BerthError(
      'bad-request',
      `Found a range of ${steps} steps; expected at most ${loadAnswerLimits.points}: take a longer step`,
    );
  return { fromMs, untilMs, stepMs: stepS * 1000 };
}

const iso = (ms: number): string => new Date(ms).toISOString();

const seriesOf = <F extends string>(fields: readonly F[], { fromMs, untilMs, stepMs }: LoadRange, { points }: LoadPoints) => ({
  from: iso(fromMs),
  to: iso(untilMs),
  stepS: stepMs / 1000,
  points: points.map(({ atMs, seconds, values }) => ({ at: iso(atMs), seconds, ...valuesOf(fields, values) })),
});

/** Loads of hosts and VMs, as they were and as they are. */
export function loadRoutes({ ledger, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/hosts/{id}/metrics',
      id: 'readHostLoad',
      tag: 'load',
      summary: 'The load of a host over time',
      access: 'operator',
      params: Id,
      query: LoadQuery,
      answers: { 200: { description: 'A point for each step that was measured', schema: HostLoadSeries } },
      problems: ['not-found'],
      handle: async ({ params: { id }, query }) => {
        const range = rangeOf(query, clock());
        return json(200, seriesOf(hostLoadFields, range, await readHostLoad(ledger, id, range)));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/metrics',
      id: 'readVmLoad',
      tag: 'load',
      summary: 'The load of a VM over time, on whatever host it ran',
      access: 'client',
      params: Id,
      query: LoadQuery,
      answers: { 200: { description: 'A point for each step that was measured', schema: VmLoadSeries } },
      problems: ['not-found'],
      handle: async ({ params: { id }, query, caller }) => {
        const range = rangeOf(query, clock());
        return json(200, seriesOf(vmLoadFields, range, await readVmLoad(ledger, visibleOwner(caller), id, range)));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/top/hosts',
      id: 'listBusyHosts',
      tag: 'load',
      summary: 'The busiest hosts by their last samples',
      access: 'operator',
      query: BusiestQuery,
      answers: { 200: { description: 'By use, the highest first', schema: BusyHosts } },
      problems: [],
      handle: async ({ query: { limit } }) => {
        const items = (await readLatestLoads(ledger, null, clock())).map((latest) => ({
          host: latest.hostId,
          at: iso(latest.atMs),
          processors: latest.processors,
          vms: latest.vms.size,
          capacity: { memoryMiB: latest.memoryMiB, diskMiB: latest.diskMiB },
          processorUse: latest.processorUse,
          load: valuesOf(hostLoadFields, latest.host),
        }));
        items.sort((a, b) => (b.load.use ?? 0) - (a.load.use ?? 0) || (a.host < b.host ? -1 : 1));
        return json(200, { items: items.slice(0, limit) });
      },
    }),
    operation({
      method: 'get',
      path: '/v1/top/vms',
      id: 'listBusyVms',
      tag: 'load',
      summary: 'The busiest VMs by their last samples',
      access: 'client',
      query: BusiestQuery,
      answers: { 200: { description: 'By processors, the most first', schema: BusyVms } },
      problems: [],
      handle: async ({ query: { limit }, caller }) => {
        const found = await readBusyVms(ledger, visibleOwner(caller), clock());
        const items = found.map(({ atMs, values, ...vm }) => ({ ...vm, at: iso(atMs), load: valuesOf(vmLoadFields, values) }));
        return json(200, { items: items.slice(0, limit) });
      },
    }),
    operation({
      method: 'get',
      path: '/v1/metrics',
      id: 'readVmMetrics',
      tag: 'load',
      summary: "The last samples of the caller's VMs, for Prometheus",
      access: 'client',
      answers: { 200: { description: "Prometheus' text format", media: 'text/plain' } },
      problems: [],
      handle: async ({ caller, res }) => {
        const found = await readBusyVms(ledger, visibleOwner(caller), clock());
        res.status(200).set('Content-Type', 'text/plain; version=0.0.4; charset=utf-8').end(openMetricsOf(found));
        return streamed;
      },
    }),
  ];
}
