import { createCapacityCounter, type Interval } from './capacity-counter.ts';
import { fractionOf, nextState } from './mulberry32.ts';
import type { Trace, TraceLease } from './trace.ts';

/**
 * Traces from a seed, of the kinds that the papers used: the same name and seed give the same trace, independent of other
 * generated traces. The machine sizes are those of the papers' testbeds.
 */

function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = nextState(state);
    return fractionOf(state);
  };
}

class SeededRandom {
  readonly next: () => number;

  constructor(name: string, seed: number) {
    let mixed = seed | 0;
    for (const char of name) mixed = (Math.imul(mixed, 31) + char.charCodeAt(0)) | 0;
    this.next = randomFrom(mixed);
  }

  integer(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  /** Normal around a mean with a deviation of a fifth of it, limited to 0.5 to 1.5 times the mean; whole seconds. */
  normalAround(mean: number): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
    return Math.round(Math.min(1.5, Math.max(0.5, 1 + 0.2 * normal)) * mean);
  }

  /** Few images are frequent, many are rare: the k-th has a weight of 1/k. */
  popularImage(of: number): string {
    let total = 0;
    for (let k = 1; k <= of; k++) total += 1 / k;
    let left = this.next() * total;
    let k = 1;
    while (k < of && left > 1 / k) {
      left -= 1 / k;
      k++;
    }
    return image(k - 1);
  }
}

function image(index: number): string {
  return `img${String(index).padStart(2, '0')}`;
}

const halfHost = { vcpus: 1, memoryMiB: 512, imageMiB: 600 };
const cluster = { count: 8, vcpus: 2, memoryMiB: 1024 };
const testbed = { count: 8, vcpus: 2, memoryMiB: 512 };

function numberBySubmission(leases: Omit<TraceLease, 'id'>[]): TraceLease[] {
  return leases.sort((a, b) => a.submittedAtS - b.submittedAtS).map((lease, i) => ({ id: String(i + 1), ...lease }));
}

/** The third experiment's parameters: 3 × 4 × 3 = 36 traces. */
const experiment3 = {
  batch: { short: 300, medium: 600, long: 900 },
  /** The largest part of the hosts that a reservation takes. */
  reservation: { ar025: 0.25, ar050: 0.5, ar075: 0.75, ar100: 1 },
  /** Percent of the requested time that is batch. */
  share: { be25: 0.25, be50: 0.5, be75: 0.75 },
} as const;

export function experiment3Names(): string[] {
  return Object.keys(experiment3.batch).flatMap((batch) =>
    Object.keys(experiment3.reservation).flatMap((ar) => Object.keys(experiment3.share).map((be) => `p4h_${batch}_${ar}_${be}`)),
  );
}

/** Four hours at full use: reservations known from the start and jointly feasible, batch of one VM throughout. */
function generateExperiment3(name: string, seed: number): Trace {
  const [, batch, ar, be] = name.split('_') as [
    string,
    keyof typeof experiment3.batch,
    keyof typeof experiment3.reservation,
    keyof typeof experiment3.share,
  ];
  const random = new SeededRandom(name, seed);
  const slots = cluster.count * 2;
  const lastsS = 4 * 3600;
  const reservedS = slots * lastsS * (1 - experiment3.share[be]);
  const most = Math.round(experiment3.reservation[ar] * slots);
  const least = Math.round((experiment3.reservation[ar] - 0.25) * slots) + 1;
  const reservations: (Interval & { nodes: number })[] = [];
  const free = createCapacityCounter(slots);
  let reserved = 0;
  for (let tries = 0; tries < 20_000 && reserved < reservedS; tries++) {
    const nodes = random.integer(least, most);
    // Later tries are shorter, to fill the gaps between the others.
    const wanted = tries < 2000 ? random.normalAround(900) : random.integer(60, 400);
    const durationS = Math.max(60, Math.min(wanted, Math.round((reservedS - reserved) / nodes)));
    const from = random.integer(900, lastsS - durationS);
    if (!free.take({ from, to: from + durationS }, nodes)) continue;
    reservations.push({ from, to: from + durationS, nodes });
    reserved += durationS * nodes;
  }
  const durations: number[] = [];
  for (let left = slots * lastsS * experiment3.share[be]; left > 0; left -= durations.at(-1)!) {
    durations.push(random.normalAround(experiment3.batch[batch]));
  }
  return {
    name,
    hosts: cluster,
    leases: numberBySubmission([
      ...reservations.map(({ from, to, nodes }) => ({
        kind: 'reservation' as const,
        submittedAtS: 0,
        startAtS: from,
        durationS: to - from,
        nodes,
        ...halfHost,
        image: random.popularImage(37),
      })),
      ...durations.map((durationS, i) => ({
        kind: 'bestEffort' as const,
        submittedAtS: Math.floor((i * lastsS) / durations.length),
        durationS,
        nodes: 1,
        ...halfHost,
        image: random.popularImage(37),
      })),
    ]),
  };
}

/** Reservations at random times, submitted 5 to 60 minutes ahead, that don't all fit, and batch of one VM. */
function generateAdmission(load: number, seed: number): Trace {
  const name = `acc_load${Math.round(load * 100)}`;
  const random = new SeededRandom(name, seed);
  const lastsS = 4 * 3600;
  const leases: Omit<TraceLease, 'id'>[] = [];
  const half = (load * 16 * lastsS) / 2;
  for (let left = half; left > 0; ) {
    const nodes = random.integer(1, 12);
    const durationS = random.normalAround(800);
    const startAtS = random.integer(600, lastsS);
    const submittedAtS = Math.max(0, startAtS - random.integer(300, 3600));
    leases.push({ kind: 'reservation', submittedAtS, startAtS, durationS, nodes, ...halfHost, image: random.popularImage(37) });
    left -= nodes * durationS;
  }
  const durations: number[] = [];
  for (let left = half; left > 0; left -= durations.at(-1)!) durations.push(random.normalAround(600));
  for (const [i, durationS] of durations.entries()) {
    const submittedAtS = Math.floor((i * lastsS) / durations.length);
    leases.push({ kind: 'bestEffort', submittedAtS, durationS, nodes: 1, ...halfHost, image: random.popularImage(37) });
  }
  return { name, hosts: cluster, leases: numberBySubmission(leases) };
}

/** Growth: gangs of up to a quarter of the hosts, or single VMs, a tenth of them reservations, at a load of 0.9. */
function generateGrowth(kind: 'par' | 'ser', hosts: number, leases: number, seed: number): Trace {
  const name = `scale_${kind}_n${hosts}_l${leases}`;
  const random = new SeededRandom(name, seed);
  const slots = hosts * 2;
  const free = createCapacityCounter(slots);
  const widest = kind === 'par' ? Math.max(1, Math.floor(hosts / 4)) : 1;
  const list: Omit<TraceLease, 'id'>[] = [];
  let at = 0;
  for (let i = 0; i < leases; i++) {
    const nodes = random.integer(1, widest);
    const durationS = random.normalAround(900);
    const submittedAtS = Math.floor(at);
    const common = { submittedAtS, durationS, ...halfHost, image: random.popularImage(37) };
    at += (nodes * durationS) / slots / 0.9;
    const reserved = random.next() < 0.1 ? tryReserveAhead(random, free, slots, submittedAtS, durationS, kind) : null;
    if (reserved === null) list.push({ kind: 'bestEffort', ...common, nodes });
    else list.push({ kind: 'reservation', ...common, ...reserved });
  }
  return { name, hosts: { ...cluster, count: hosts }, leases: numberBySubmission(list) };
}

function tryReserveAhead(
  random: SeededRandom,
  free: ReturnType<typeof createCapacityCounter>,
  slots: number,
  now: number,
  durationS: number,
  kind: 'par' | 'ser',
): { startAtS: number; nodes: number } | null {
  for (let tries = 0; tries < 20; tries++) {
    const nodes = random.integer(1, kind === 'par' ? Math.max(1, Math.floor(slots / 4)) : 8);
    const startAtS = now + random.integer(1800, 10_800);
    if (free.take({ from: startAtS, to: startAtS + durationS }, Math.min(nodes, slots)))
      return { startAtS, nodes: Math.min(nodes, slots) };
  }
  return null;
}

/** Accuracy: reservations alone, 30 min each, six images. Trace I starts them anywhere, II in windows of 100 s every 900 s. */
function generateAccuracy(trace: 'I' | 'II', seed: number): Trace {
  const random = new SeededRandom(trace, seed);
  const free = createCapacityCounter(testbed.count * 2);
  const leases: Omit<TraceLease, 'id'>[] = [];
  const lastsS = 2 * 3600;
  for (let tries = 0; tries < 400 && leases.length < 17; tries++) {
    const nodes = random.integer(2, 4);
    const startAtS = trace === 'I' ? random.integer(600, lastsS) : 900 * random.integer(1, lastsS / 900) + random.integer(0, 100);
    if (!free.take({ from: startAtS, to: startAtS + 1800 }, nodes)) continue;
    const vm = { vcpus: 1, memoryMiB: 256, image: image(random.integer(0, 5)), imageMiB: 600 };
    leases.push({ kind: 'reservation', submittedAtS: 0, startAtS, durationS: 1800, nodes, ...vm });
  }
  return { name: `trace-${trace}`, hosts: testbed, leases: numberBySubmission(leases) };
}

/**
 * Efficiency: 62 batch submissions in 80 min; III uses six images equally, IV two of them in 82 % of the submissions.
 * The widths and lengths are those of an express queue: mostly narrow and short, a few long.
 */
function generateEfficiency(trace: 'III' | 'IV', seed: number): Trace {
  const random = new SeededRandom(trace, seed);
  const leases: Omit<TraceLease, 'id'>[] = [];
  for (let i = 0; i < 62; i++) {
    const favourite = trace === 'IV' && random.next() < 0.82;
    const wanted = favourite ? random.integer(0, 1) : trace === 'IV' ? random.integer(2, 5) : random.integer(0, 5);
    leases.push({
      kind: 'bestEffort',
      submittedAtS: Math.floor(random.next() * 80 * 60),
      durationS: Math.round(60 + 840 * random.next() ** 2),
      nodes: 2 ** random.integer(0, 2),
      vcpus: 1,
      memoryMiB: 256,
      image: image(wanted),
      imageMiB: 600,
    });
  }
  return { name: `trace-${trace}`, hosts: testbed, leases: numberBySubmission(leases) };
}

/** By name: I to IV, one of experiment3Names(), acc_load<percent>, scale_par_n<hosts>_l<leases>, scale_ser_…; null: unknown. */
export function generateTrace(name: string, seed: number): Trace | null {
  if (name === 'I' || name === 'II') return generateAccuracy(name, seed);
  if (name === 'III' || name === 'IV') return generateEfficiency(name, seed);
  if (experiment3Names().includes(name)) return generateExperiment3(name, seed);
  const load = /^acc_load([1-9][0-9]{0,2})$/.exec(name);
  if (load !== null) return generateAdmission(Number(load[1]) / 100, seed);
  const growth = /^scale_(par|ser)_n([1-9][0-9]{0,4})_l([1-9][0-9]{0,5})$/.exec(name);
  if (growth === null) return null;
  return generateGrowth(growth[1] === 'par' ? 'par' : 'ser', Number(growth[2]), Number(growth[3]), seed);
}
