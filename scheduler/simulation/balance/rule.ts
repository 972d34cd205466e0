import type { SimulatedSite } from './simulated-site.ts';

/** What decides in a simulation which VMs move; called once a step, after what VMs want has changed. */
export interface BalanceRule {
  name: string;
  step(site: SimulatedSite): void;
}

/** Moves nothing. */
export const noRule: BalanceRule = { name: 'off', step: () => {} };

/** The hosts of a cluster: the others' rules are for clusters, which have a few dozen hosts at most. */
export function clustersOf(hosts: number, size: number): number[][] {
  const clusters = Array.from({ length: Math.ceil(hosts / size) }, (): number[] => []);
  for (let host = 0; host < hosts; host++) clusters[host % clusters.length]!.push(host);
  return clusters;
}
