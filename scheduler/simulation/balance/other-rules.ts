import { type BalanceRule, clustersOf } from './rule.ts';
import { residentPart, type SimulatedSite, stepS } from './simulated-site.ts';

/** The rules of other systems, as they are published, with their published defaults. */

/** As many hosts as these systems have in a cluster. */
export const clusterSize = 32;

/**
 * Proxmox VE 9.2, dynamic load scheduler with automatic rebalancing (proxmox-resource-scheduling, scheduler.rs; pve-docs, "CRS
 * load balancer"): each round of about 10 s the imbalance is the coefficient of variation of the hosts' loads as a part of its
 * maximum; a load is the mean of the shares of processors and memory in use. Above the threshold for some rounds, the migration
 * that reduces it most is begun if it does so by a tenth. One at a time.
 */
export function createProxmoxRule(site: SimulatedSite, threshold = 0.3): BalanceRule {
  const holdRounds = 3;
  const margin = 0.1;
  const roundSteps = Math.round(10 / stepS);
  const clusters = clustersOf(site.trace.hosts, clusterSize).map((hosts) => ({ hosts, exceeded: 0 }));
  const { processors, capacity } = site.trace;
  const vmLoad = (vm: number): number =>
    (site.level[vm]! / processors + (site.vm(vm).memoryMiB * residentPart) / capacity.memoryMiB) / 2;
  const hostLoad = (host: number): number =>
    (Math.min(1, site.demand[host]! / processors) + (site.usedMemoryMiB[host]! * residentPart) / capacity.memoryMiB) / 2;
  return {
    name: 'proxmox',
    step() {
      if (site.step % roundSteps !== 0) return;
      for (const cluster of clusters) {
        const { hosts } = cluster;
        const loads = new Map(hosts.map((host) => [host, hostLoad(host)]));
        const sum = [...loads.values()].reduce((all, load) => all + load, 0);
        const squares = [...loads.values()].reduce((all, load) => all + load ** 2, 0);
        const imbalance = (changed: number): number => {
          const mean = sum / hosts.length;
          return Math.sqrt(Math.max(0, changed / hosts.length - mean ** 2)) / mean / Math.sqrt(hosts.length - 1);
        };
        const now = imbalance(squares);
        cluster.exceeded = now > threshold ? cluster.exceeded + 1 : 0;
        if (cluster.exceeded < holdRounds || hosts.some((host) => site.leaving[host]! > 0)) continue;
        let best: { vm: number; to: number; squares: number } | null = null;
        for (const from of hosts) {
          for (const vm of site.vmsOf[from]!) {
            const load = vmLoad(vm);
            for (const to of hosts) {
              if (loads.get(to)! >= loads.get(from)!) continue;
              const changed =
                squares +
                (loads.get(from)! - load) ** 2 -
                loads.get(from)! ** 2 +
                (loads.get(to)! + load) ** 2 -
                loads.get(to)! ** 2;
              if (changed < (best?.squares ?? squares) && site.canMove(vm, to)) best = { vm, to, squares: changed };
            }
          }
        }
        if (best !== null && now - imbalance(best.squares) >= margin * now) site.move(best.vm, best.to);
      }
    },
  };
}

/**
 * Apache CloudStack's DRS, algorithm `balanced` (Balanced.java, ClusterDrsServiceImpl.java): every hour, while the standard
 * deviation of the hosts' allocated metric is more than `1 - drs.imbalance` of its mean, the migration that reduces it most, up to
 * 50. The metric is `cpu` here: the default, `memory`, has nothing to do with what is measured.
 */
export function createCloudStackRule(site: SimulatedSite, threshold = 0.6): BalanceRule {
  const mostMoves = 50;
  const everySteps = 3600 / stepS;
  const clusters = clustersOf(site.trace.hosts, clusterSize);
  let planned: { vm: number; from: number; to: number }[] = [];
  const plan = (hosts: readonly number[]): { vm: number; from: number; to: number }[] => {
    const moves: { vm: number; from: number; to: number }[] = [];
    const used = new Map(hosts.map((host) => [host, site.usedVcpus[host]!]));
    const memory = new Map(hosts.map((host) => [host, site.usedMemoryMiB[host]!]));
    const at = new Map(hosts.flatMap((host) => [...site.vmsOf[host]!].map((vm) => [vm, host] as const)));
    const mean = [...used.values()].reduce((sum, value) => sum + value, 0) / hosts.length;
    while (moves.length < mostMoves) {
      const variance = [...used.values()].reduce((sum, value) => sum + (value - mean) ** 2, 0) / hosts.length;
      if (Math.sqrt(variance) / mean <= threshold) break;
      let best: { vm: number; from: number; to: number; change: number } | null = null;
      for (const [vm, from] of at) {
        const { vcpus, memoryMiB } = site.vm(vm);
        for (const to of hosts) {
          const change = 2 * vcpus * (used.get(to)! - used.get(from)! + vcpus);
          if (change >= (best?.change ?? 0) || to === from) continue;
          if (used.get(to)! + vcpus > site.trace.capacity.vcpus || memory.get(to)! + memoryMiB > site.trace.capacity.memoryMiB)
            continue;
          best = { vm, from, to, change };
        }
      }
      // As there: the plan ends where a VM would go back to its host.
      if (best === null || best.to === site.hostOf[best.vm]) break;
      const { vcpus, memoryMiB } = site.vm(best.vm);
      used.set(best.from, used.get(best.from)! - vcpus).set(best.to, used.get(best.to)! + vcpus);
      memory.set(best.from, memory.get(best.from)! - memoryMiB).set(best.to, memory.get(best.to)! + memoryMiB);
      at.set(best.vm, best.to);
      moves.push({ vm: best.vm, from: best.from, to: best.to });
    }
    return moves;
  };
  return {
    name: 'cloudstack',
    step() {
      if (site.step % everySteps === 0) planned = clusters.flatMap(plan);
      // The plan is carried out as fast as hosts admit migrations.
      planned = planned.filter(({ vm, to }) => {
        if (site.hostOf[vm] === -1) return false;
        if (!site.canMove(vm, to)) return true;
        site.move(vm, to);
        return false;
      });
    },
  };
}

/**
 * Incus (cmd/incusd/api_cluster_rebalance.go): the score of a server is the mean of its memory and its load average, in whole
 * percent. If the least busy one's is less than the busiest one's by the threshold, as a part of the latter, VMs of the busiest
 * are moved there, at most `batch` (1), in the order of the database: the first that was not moved for `cooldown` (6 h) and whose
 * configured size leaves the target below the mean of both. The code swaps the VM's processors and memory there, here they are not.
 * The interval has no default; the shortest is a minute.
 */
export function createIncusRule(site: SimulatedSite, threshold = 0.2): BalanceRule {
  const everySteps = Math.round(60 / stepS);
  const coolDownS = 6 * 3600;
  const clusters = clustersOf(site.trace.hosts, clusterSize);
  const { processors, capacity } = site.trace;
  const averages = new Float64Array(site.trace.hosts);
  const known = Math.exp(-stepS / 60);
  const score = (host: number, extraCpus = 0, extraMiB = 0): number => {
    const memory = Math.floor((100 * (site.usedMemoryMiB[host]! * residentPart + extraMiB)) / capacity.memoryMiB);
    return Math.floor((memory + Math.floor((100 * (averages[host]! + extraCpus)) / processors)) / 2);
  };
  return {
    name: 'incus',
    step() {
      for (let host = 0; host < averages.length; host++)
        averages[host] = site.demand[host]! + (averages[host]! - site.demand[host]!) * known;
      if (site.step % everySteps !== 0) return;
      for (const hosts of clusters) {
        const order = hosts.toSorted((a, b) => score(b) - score(a));
        const source = order[0]!;
        const target = order.at(-1)!;
        const most = score(source);
        const least = score(target);
        if (most === 0 || (most - least) / most < threshold) continue;
        for (const vm of [...site.vmsOf[source]!].sort((a, b) => a - b)) {
          const last = site.movedAtS.get(vm)?.at(-1);
          if ((last !== undefined && site.nowS - last < coolDownS) || !site.canMove(vm, target)) continue;
          const { vcpus, memoryMiB } = site.vm(vm);
          if (score(target, vcpus, memoryMiB) >= Math.floor((most + least) / 2)) continue;
          site.move(vm, target);
          break;
        }
      }
    },
  };
}
