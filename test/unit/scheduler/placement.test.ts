import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Resources } from '../../../model/host.ts';
import {
  type PlacementHost,
  type PlacementRequest,
  permanentRefusal,
  placeGang,
  placeQueue,
  type QueueVerdict,
} from '../../../scheduler/placement.ts';

const nothing: Resources = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };

function host(id: string, vcpus: number, more: Partial<PlacementHost> = {}): PlacementHost {
  const capacity = { vcpus, memoryMiB: vcpus * 100, diskMiB: vcpus * 1000 };
  return { id, state: 'up', schedulable: true, capacity, used: nothing, images: new Set(), ...more };
}

function request(id: string, vcpus: number, more: Partial<PlacementRequest> = {}): PlacementRequest {
  return { id, nodes: 1, perVm: { vcpus, memoryMiB: 1, diskMiB: 1 }, imageId: null, overtaken: 0, ...more };
}

const limits = { maxOvertaken: 2, lookahead: 100 };
const hostsOf = (verdict: QueueVerdict | undefined) => (verdict?.kind === 'placed' ? verdict.hosts : verdict?.kind);
const place = (queue: PlacementRequest[], hosts: PlacementHost[], with_ = limits) =>
  placeQueue(queue, hosts, with_).map(({ verdict }) => hostsOf(verdict));
const gang = (requested: PlacementRequest, hosts: PlacementHost[]) =>
  placeGang(requested, hosts, new Map(hosts.map((h) => [h.id, h.used])));

describe('filters', () => {
  it('count each host once, at the first filter that it fails', () => {
    const hosts = [
      host('a', 8, { state: 'unknown', schedulable: false }),
      host('b', 8, { schedulable: false, capacity: nothing }),
      host('c', 1),
      host('d', 8, { capacity: { vcpus: 8, memoryMiB: 10, diskMiB: 10 } }),
      host('e', 8, { capacity: { vcpus: 8, memoryMiB: 1000, diskMiB: 10 } }),
      host('f', 8, { used: { vcpus: 7, memoryMiB: 0, diskMiB: 0 } }),
    ];
    expect(gang(request('t', 2, { perVm: { vcpus: 2, memoryMiB: 100, diskMiB: 100 } }), hosts)).toEqual({
      refusal: { hosts: 6, failed: { unknown: 1, unschedulable: 1, vcpus: 2, memory: 1, disk: 1 } },
    });
  });

  it('pass a host that is filled to the last unit', () => {
    const full = host('a', 4, { used: { vcpus: 3, memoryMiB: 399, diskMiB: 3999 } });
    expect(gang(request('t', 1), [full])).toEqual({ hosts: ['a'] });
  });
});

describe('ranks', () => {
  it('prefer a host that has the image, before every other criterion', () => {
    const hosts = [host('a', 1), host('b', 8, { images: new Set(['debian']) })];
    expect(gang(request('t', 1, { imageId: 'debian' }), hosts)).toEqual({ hosts: ['b'] });
    expect(gang(request('t', 1, { imageId: 'other' }), hosts)).toEqual({ hosts: ['a'] });
  });

  it('take the fullest host that has capacity', () => {
    const hosts = [host('a', 8), host('b', 8, { used: { vcpus: 4, memoryMiB: 400, diskMiB: 4000 } }), host('c', 4)];
    expect(gang(request('t', 1), hosts)).toEqual({ hosts: ['b'] });
    expect(gang(request('t', 6), hosts)).toEqual({ hosts: ['a'] });
  });

  it('spread the members of a gang before they share a host', () => {
    const hosts = [host('a', 8), host('b', 8), host('c', 2)];
    expect(gang(request('t', 1, { nodes: 5 }), hosts)).toEqual({ hosts: ['c', 'a', 'b', 'c', 'a'] });
  });

  it('break ties by id', () => {
    expect(gang(request('t', 1), [host('b', 2), host('c', 2), host('a', 2)])).toEqual({ hosts: ['a'] });
  });
});

describe('what never fits', () => {
  it('is distinguished from a lack of free capacity', () => {
    const busy = host('a', 4, { used: { vcpus: 4, memoryMiB: 0, diskMiB: 0 }, state: 'unknown', schedulable: false });
    expect(permanentRefusal(request('t', 4), [busy])).toBeNull();
    expect(permanentRefusal(request('t', 5), [busy, host('b', 2)])).toEqual({ hosts: 2, failed: { vcpus: 2 } });
    expect(permanentRefusal(request('t', 3, { nodes: 2 }), [busy, host('b', 2)])).toEqual({ hosts: 2, failed: { vcpus: 1 } });
    expect(permanentRefusal(request('t', 1, { nodes: 9 }), [host('a', 8)])).toEqual({ hosts: 1, failed: { nodes: 1 } });
  });

  it('is unknown before the first host has registered', () => {
    expect(permanentRefusal(request('t', 5), [])).toBeNull();
    expect(placeQueue([request('t', 5)], [], limits)[0]?.verdict).toEqual({
      kind: 'waits',
      refusal: { hosts: 0, failed: {} },
      overtaken: 0,
    });
  });
});

describe('the queue', () => {
  it('is served oldest first', () => {
    expect(place([request('old', 2), request('young', 2)], [host('a', 2)])).toEqual([['a'], 'waits']);
  });

  it('lets a younger task overtake one that does not fit, and counts it', () => {
    const busy = host('a', 4, { used: { vcpus: 2, memoryMiB: 0, diskMiB: 0 } });
    const answers = placeQueue([request('large', 4), request('s1', 1), request('s2', 1)], [busy], limits);
    expect(answers.map(({ verdict }) => hostsOf(verdict))).toEqual(['waits', ['a'], ['a']]);
    expect(answers[0]?.verdict).toMatchObject({ overtaken: 2, refusal: { failed: { vcpus: 1 } } });
  });

  it('lets no task overtake one that was overtaken often enough', () => {
    const busy = host('a', 4, { used: { vcpus: 1, memoryMiB: 0, diskMiB: 0 } });
    const queue = [request('large', 4, { overtaken: 1 }), request('s1', 1), request('s2', 1)];
    const answers = placeQueue(queue, [busy], limits);
    expect(answers.map(({ verdict }) => hostsOf(verdict))).toEqual(['waits', ['a'], 'waits']);
    expect(answers[2]?.verdict).toMatchObject({ refusal: { hosts: 1, failed: { queue: 1 } }, overtaken: 0 });
  });

  it('is not blocked by a task that could not be placed if the site were empty', () => {
    const hosts = [host('a', 4), host('big', 16, { state: 'unknown' })];
    const queue = [request('huge', 16, { overtaken: 99 }), request('s1', 1), request('never', 17), request('s2', 1)];
    const answers = placeQueue(queue, hosts, limits);
    expect(answers.map(({ verdict }) => hostsOf(verdict))).toEqual(['waits', ['a'], 'impossible', ['a']]);
    // It waits for its host, not for capacity: no other task takes anything that it could use.
    expect(answers[0]?.verdict).toMatchObject({ overtaken: 99, refusal: { failed: { unknown: 1, vcpus: 1 } } });
  });

  it('is scanned up to a limit', () => {
    const queue = Array.from({ length: 5 }, (_, i) => request(`t${i}`, 1));
    expect(placeQueue(queue, [host('a', 8)], { ...limits, lookahead: 3 })).toHaveLength(3);
  });
});

const amounts = fc.record({ vcpus: fc.nat(8), memoryMiB: fc.nat(800), diskMiB: fc.nat(8000) });
const anyHost = fc
  .record({
    capacity: amounts,
    share: fc.double({ min: 0, max: 1.2, noNaN: true }),
    state: fc.constantFrom('up' as const, 'up' as const, 'unknown' as const),
    schedulable: fc.boolean(),
    images: fc.subarray(['i1', 'i2']),
  })
  .map(({ share, images, capacity, ...rest }) => ({
    ...rest,
    capacity,
    // Above its capacity, where a host has shrunk.
    used: {
      vcpus: Math.floor(capacity.vcpus * share),
      memoryMiB: Math.floor(capacity.memoryMiB * share),
      diskMiB: Math.floor(capacity.diskMiB * share),
    },
    images: new Set(images),
  }));
const anyHosts = fc.array(anyHost, { maxLength: 6 }).map((hosts) => hosts.map((one, i) => ({ ...one, id: `host-${i}` })));
const anyRequest = fc.record({
  nodes: fc.integer({ min: 1, max: 4 }),
  perVm: fc.record({ vcpus: fc.integer({ min: 1, max: 5 }), memoryMiB: fc.integer({ min: 1, max: 500 }), diskMiB: fc.nat(4000) }),
  imageId: fc.constantFrom(null, 'i1', 'i2', 'i3'),
  overtaken: fc.nat(4),
});
const anyQueue = fc.array(anyRequest, { maxLength: 12 }).map((queue) => queue.map((one, i) => ({ ...one, id: `task-${i}` })));
const anyLimits = fc.record({ maxOvertaken: fc.nat(4), lookahead: fc.integer({ min: 1, max: 12 }) });

const sizes = ['vcpus', 'memoryMiB', 'diskMiB'] as const;

describe('for every queue and every site', () => {
  it('no host is given more than its capacity, or anything at all while it accepts no work', () => {
    fc.assert(
      fc.property(anyQueue, anyHosts, anyLimits, (queue, hosts, someLimits) => {
        const added = new Map(hosts.map((one) => [one.id, { ...nothing }]));
        for (const { request: requested, verdict } of placeQueue(queue, hosts, someLimits)) {
          if (verdict.kind !== 'placed') continue;
          // All or none.
          expect(verdict.hosts).toHaveLength(requested.nodes);
          for (const id of verdict.hosts) for (const size of sizes) (added.get(id) as Resources)[size] += requested.perVm[size];
        }
        for (const one of hosts) {
          const more = added.get(one.id) as Resources;
          if (more.vcpus === 0) continue;
          expect([one.state, one.schedulable]).toEqual(['up', true]);
          for (const size of sizes) expect(one.used[size] + more[size]).toBeLessThanOrEqual(one.capacity[size]);
        }
      }),
    );
  });

  it('the answer depends neither on the order in which hosts are listed, nor on the time of the call', () => {
    fc.assert(
      fc.property(anyQueue, anyHosts, anyLimits, (queue, hosts, someLimits) => {
        const before = structuredClone({ queue, hosts });
        const answer = placeQueue(queue, hosts, someLimits);
        expect(placeQueue(queue, [...hosts].reverse(), someLimits)).toEqual(answer);
        expect({ queue, hosts }).toEqual(before);
      }),
    );
  });

  it('a task that waits could not be placed, or must not overtake an older one', () => {
    fc.assert(
      fc.property(anyQueue, anyHosts, anyLimits, (queue, hosts, someLimits) => {
        const used = new Map(hosts.map((one) => [one.id, one.used]));
        for (const { request: requested, verdict } of placeQueue(queue, hosts, someLimits)) {
          if (verdict.kind === 'placed')
            for (const id of verdict.hosts) {
              const was = used.get(id) as Resources;
              used.set(id, {
                vcpus: was.vcpus + requested.perVm.vcpus,
                memoryMiB: was.memoryMiB + requested.perVm.memoryMiB,
                diskMiB: was.diskMiB + requested.perVm.diskMiB,
              });
            }
          else if (!('queue' in verdict.refusal.failed)) expect(placeGang(requested, hosts, used)).toHaveProperty('refusal');
        }
      }),
    );
  });

  it('no task is overtaken more often than the limit, however long the site runs', () => {
    const rounds = fc.array(fc.record({ arrives: anyRequest, leaves: fc.nat() }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(rounds, fc.nat(3), (steps, maxOvertaken) => {
        const hosts = [host('a', 5), host('b', 5)];
        let queue: PlacementRequest[] = [];
        let running: { id: string; requested: PlacementRequest }[][] = [];
        let born = 0;
        const pass = () => {
          const state = hosts.map((one) => ({ ...one, used: { ...nothing } }));
          for (const { id, requested } of running.flat())
            for (const size of sizes) (state.find((one) => one.id === id) as PlacementHost).used[size] += requested.perVm[size];
          const answers = placeQueue(queue, state, { maxOvertaken, lookahead: 1000 });
          queue = answers.flatMap(({ request: requested, verdict }) =>
            verdict.kind === 'waits' ? [{ ...requested, overtaken: verdict.overtaken }] : [],
          );
          for (const { request: requested, verdict } of answers)
            if (verdict.kind === 'placed') running.push(verdict.hosts.map((id) => ({ id, requested })));
          for (const waiting of queue) expect(waiting.overtaken).toBeLessThanOrEqual(maxOvertaken);
        };
        for (const step of steps) {
          queue.push({ ...step.arrives, id: `task-${born++}`, overtaken: 0, perVm: { ...step.arrives.perVm, diskMiB: 1 } });
          if (running.length > 0) running = running.filter((_, i) => i !== step.leaves % running.length);
          pass();
        }
        // Nothing more arrives: the queue empties, the largest included.
        for (let i = 0; queue.length > 0; i += 1) {
          expect(i).toBeLessThan(200);
          running.shift();
          pass();
        }
      }),
    );
  });
});

describe('rules', () => {
  const rule = (group: string, relation: 'together' | 'apart', strength: 'strict' | 'preferred' = 'strict') => ({
    labelRules: [],
    groupRules: [{ group, relation, strength }],
  });

  it('that prefer a host come before its image, and refuse none', () => {
    const preferred = {
      labelRules: [{ label: 'disk', operator: 'in' as const, values: ['ssd'], strength: 'preferred' as const }],
      groupRules: [],
    };
    const hosts = [host('a', 1, { images: new Set(['debian']) }), host('b', 8, { labels: new Map([['disk', 'ssd']]) })];
    expect(gang(request('t', 1, { imageId: 'debian', rules: preferred }), hosts)).toEqual({ hosts: ['b'] });
    expect(gang(request('t', 1, { imageId: 'debian', rules: preferred }), hosts.slice(0, 1))).toEqual({ hosts: ['a'] });
  });

  it('that keep a gang together choose a host with room for all of it', () => {
    const hosts = [host('a', 2), host('b', 8)];
    expect(gang(request('t', 1, { nodes: 3, rules: rule('g', 'together') }), hosts)).toEqual({ hosts: ['b', 'b', 'b'] });
    expect(gang(request('t', 1, { nodes: 9, rules: rule('g', 'together') }), hosts)).toEqual({
      refusal: { hosts: 2, failed: { vcpus: 2 } },
    });
  });

  it('hold among the requests of one pass', () => {
    const apart = (id: string) => request(id, 1, { rules: rule('g', 'apart') });
    expect(place([apart('t1'), apart('t2'), apart('t3')], [host('a', 8), host('b', 8)])).toEqual([['a'], ['b'], 'waits']);
  });

  it('that no host meets hold up no other request; those that wait for capacity do', () => {
    const with_ = { ...limits, maxOvertaken: 0 };
    const apart = (id: string, vcpus: number, nodes: number) => request(id, vcpus, { nodes, rules: rule('g', 'apart') });
    expect(place([apart('t1', 1, 2), request('t2', 1)], [host('a', 8)], with_)).toEqual(['waits', ['a']]);
    const busy = host('a', 8, { used: { vcpus: 4, memoryMiB: 0, diskMiB: 0 } });
    expect(place([apart('t1', 8, 1), request('t2', 1)], [busy], with_)).toEqual(['waits', 'waits']);
  });
});
