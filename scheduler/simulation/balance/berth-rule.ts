import { convergencePolicy } from '../../../model/migration.ts';
import { decideSpread } from '../../balance/decide.ts';
import type { BalanceDecision, BalanceInput, HelpRequest } from '../../balance/decision.ts';
import { type BalanceHost, type BalancePolicy, type BalanceVm, balancePolicy } from '../../balance/site.ts';
import { calmWatch, forgetStress, judgeLoad, type LoadSample, observeLoad, type WatchState } from '../../balance/watchdog.ts';
import { fitMigrationModel, type MigrationModel } from '../../drains/migration-model.ts';
import { estimatePreCopy } from '../../drains/pre-copy.ts';
import { RandomStreams } from './random-streams.ts';
import type { BalanceRule } from './rule.ts';
import { dirtyMiBPerS, network, residentPart, type SimulatedSite, stepS } from './simulated-site.ts';

const dayS = 24 * 3600;
/** A host to which the answer was no asks again after half as long as its stress has lasted, and not before this. */
const asksAgainS = 10;

/** Berth's own watchdog and decision, on the simulation's hosts. */
export function createBerthRule(
  site: SimulatedSite,
  policy: BalancePolicy = balancePolicy,
  onDecision?: (decision: BalanceDecision) => void,
): BalanceRule {
  const { hosts, processors, capacity } = site.trace;
  const model = measuredModel(site.trace.seed);
  const watches: WatchState[] = Array.from({ length: hosts }, () => calmWatch);
  const views = Array.from({ length: hosts }, (_, index) => hostView(index, processors, capacity));
  const asksAtS = new Float64Array(hosts);
  return {
    name: 'berth',
    step() {
      const requests: HelpRequest[] = [];
      for (let host = 0; host < hosts; host++) {
        const wanted = site.demand[host]!;
        const use = Math.min(1, wanted / processors);
        const sample: LoadSample = {
          atMs: site.nowS * 1000,
          durationS: stepS,
          use,
          steal: wanted > processors ? 1 - processors / wanted : 0,
          psi: null,
        };
        const watch = observeLoad(watches[host]!, sample);
        watches[host] = watch;
        if (watch.points === 0) continue;
        const verdict = judgeLoad(watch, sample);
        if (verdict.asks && site.nowS >= asksAtS[host]!) requests.push({ host: views[host]!.id, verdict });
      }
      if (requests.length === 0) return;
      for (let host = 0; host < hosts; host++) updateView(views[host]!, host, site);
      countMigrations(views, site);
      const vms = requests.flatMap(({ host }) => [...site.vmsOf[indexOf(host)]!].map((vm) => vmView(vm, site)));
      const decisions = decideSpread({ nowMs: site.nowS * 1000, hosts: views, vms, members: new Map(), requests, policy, model });
      for (const decision of decisions) {
        onDecision?.(decision);
        asksAtS[indexOf(decision.host)] = site.nowS + Math.max(asksAgainS, decision.seen.seen.stressedS / 2);
        if (decision.outcome.kind !== 'move') continue;
        asksAtS[indexOf(decision.host)] = 0;
        for (const { vm, to, gain } of decision.outcome.moves) {
          site.move(indexOf(vm), indexOf(to), gain.duringStressCpuS + gain.laterCpuS);
          watches[indexOf(decision.host)] = forgetStress(watches[indexOf(decision.host)]!);
        }
      }
    },
  };
}

/** The input of a decision about the whole site with all its VMs, where the busiest hosts are overloaded and ask for help. */
export function decisionInput(site: SimulatedSite, asking: number, policy: BalancePolicy): BalanceInput {
  const { hosts, processors, capacity } = site.trace;
  const views = Array.from({ length: hosts }, (_, index) => hostView(index, processors, capacity));
  for (const [host, view] of views.entries()) updateView(view, host, site);
  const busiest = views.toSorted((a, b) => b.load.cpus - a.load.cpus).slice(0, asking);
  for (const view of busiest) view.load = { ...view.load, cpus: Math.max(view.load.cpus, 1.2 * processors) };
  const seen = { points: 600, spikeS: 8, useLimit: 1, stressedS: 600, use: 1, steal: 0.2 };
  const verdict = { asks: true, kind: 'processors' as const, confidence: 0.5, expectedS: 600, seen };
  return {
    nowMs: site.nowS * 1000,
    hosts: views,
    vms: site.vmsOf.flatMap((vms) => [...vms].map((vm) => vmView(vm, site))),
    members: new Map(),
    requests: busiest.map(({ id }) => ({ host: id, verdict })),
    policy,
    model: measuredModel(site.trace.seed),
  };
}

const hostId = (index: number): string => `h${String(index).padStart(5, '0')}`;
const vmId = (index: number): string => `v${String(index).padStart(8, '0')}`;
const indexOf = (id: string): number => Number(id.slice(1));

function hostView(index: number, processors: number, capacity: BalanceHost['capacity']): BalanceHost {
  return {
    id: hostId(index),
    state: 'up',
    acceptsMigrations: true,
    accelerator: 'kvm',
    cpuModel: 'one',
    capacity,
    used: { vcpus: 0, memoryMiB: 0 },
    arriving: 0,
    leaving: 0,
    labels: new Map(),
    images: new Set(),
    balance: true,
    draining: false,
    processors,
    load: { cpus: 0, meanCpus: 0, varianceCpus: 0 },
    promises: [],
    vms: 0,
  };
}

function updateView(view: BalanceHost, host: number, site: SimulatedSite): void {
  let cpus = 0;
  let meanCpus = 0;
  let varianceCpus = 0;
  for (const vm of site.vmsOf[host]!) {
    site.learn(vm);
    cpus += site.recent[vm]!;
    meanCpus += site.mean[vm]!;
    varianceCpus += Math.max(0, site.square[vm]! - site.mean[vm]! ** 2);
  }
  view.load = { cpus, meanCpus, varianceCpus };
  view.used = { vcpus: site.usedVcpus[host]!, memoryMiB: site.usedMemoryMiB[host]! };
  view.arriving = site.arriving[host]!;
  view.leaving = site.leaving[host]!;
  view.vms = site.vmsOf[host]!.size;
}

/** VMs that move are counted where they will be. */
function countMigrations(views: readonly BalanceHost[], site: SimulatedSite): void {
  for (const { vm, from, to } of site.migrations()) {
    const load = {
      cpus: site.recent[vm]!,
      meanCpus: site.mean[vm]!,
      varianceCpus: Math.max(0, site.square[vm]! - site.mean[vm]! ** 2),
    };
    for (const [host, times] of [[from, -1] as const, [to, 1] as const]) {
      const view = views[host]!;
      view.load = {
        cpus: Math.max(0, view.load.cpus + times * load.cpus),
        meanCpus: Math.max(0, view.load.meanCpus + times * load.meanCpus),
        varianceCpus: Math.max(0, view.load.varianceCpus + times * load.varianceCpus),
      };
      view.vms += times;
    }
  }
}

function vmView(vm: number, site: SimulatedSite): BalanceVm {
  const { vcpus, memoryMiB, arrivesS, ageS, endsS, leased } = site.vm(vm);
  const id = vmId(vm);
  const moved = (site.movedAtS.get(vm) ?? []).filter((atS) => atS > site.nowS - dayS);
  return {
    id,
    host: hostId(site.hostOf[vm]!),
    vcpus,
    memoryMiB,
    load: { cpus: site.recent[vm]!, meanCpus: site.mean[vm]!, varianceCpus: Math.max(0, site.square[vm]! - site.mean[vm]! ** 2) },
    migration: { vm: id, memoryMiB, residentMiB: memoryMiB * residentPart, dirtyMiBPerS: dirtyMiBPerS(site.recent[vm]!) },
    diskMiBPerS: 0,
    home: null,
    image: null,
    startedAtMs: (arrivesS - ageS) * 1000,
    endsByMs: leased ? endsS * 1000 : null,
    pinned: false,
    keep: false,
    promisedHost: false,
    unmovable: site.moving[vm] === 1 ? 'it is being migrated' : null,
    movedAtMs: moved.map((atS) => atS * 1000),
    labelRules: [],
    groupRules: [],
  };
}

/** The migration model of drains after forty measured migrations over the simulation's network. */
export function measuredModel(seed: number): MigrationModel {
  const random = new RandomStreams(1, seed + 5);
  return fitMigrationModel(
    Array.from({ length: 40 }, (_, index) => {
      const memoryMiB = 1024 * 2 ** Math.floor(6 * random.next(0));
      const dirty = dirtyMiBPerS(4 * random.next(0));
      const course = estimatePreCopy({
        memoryMiB: memoryMiB * residentPart,
        dirtyMiBPerS: dirty,
        bandwidthMiBPerS: network.miBPerS,
        policy: convergencePolicy,
      });
      const seconds = (course.seconds + course.downtimeS) * Math.exp(network.noise * random.normal(0)) + 1;
      const load = { vm: `measured${index}`, memoryMiB, residentMiB: memoryMiB * residentPart, dirtyMiBPerS: dirty };
      const bytes = course.sentMiB * 2 ** 20;
      return {
        kind: 'live' as const,
        from: 'x',
        to: 'y',
        load,
        concurrency: 1,
        atMs: index,
        seconds,
        transferS: seconds - 1,
        bytes,
      };
    }),
  );
}
