import { Gauge, type Registry } from 'prom-client';
import type { BalanceCounts } from '../ledger/balance/read-decisions.ts';
import { balanceStates } from '../model/load/balancer.ts';

/** Which hosts report their load, and what the balancer has decided. @param read counts the hosts that are up */
export function openLoadMetrics(
  registry: Registry,
  read: () => Promise<{ reporting: number; silent: number }>,
  readDecided: () => Promise<BalanceCounts>,
): void {
  new Gauge({
    name: 'berth_load_hosts',
    help: 'Hosts that are up, by whether their load of the last ten minutes is there',
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      const { reporting, silent } = await read();
      this.set({ state: 'reporting' }, reporting);
      this.set({ state: 'silent' }, silent);
    },
  });
  new Gauge({
    name: 'berth_balancer_decisions',
    help: 'Decisions of the last 30 days about hosts that asked for help, by state',
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      const { states } = await readDecided();
      for (const state of balanceStates) this.set({ state }, states.find((row) => row.state === state)?.rows ?? 0);
    },
  });
  new Gauge({
    name: 'berth_balancer_gain_cpus',
    help: 'Processors that moves of the last 30 days freed for VMs that starved: as predicted, and as measured of the same moves',
    labelNames: ['kind'],
    registers: [registry],
    async collect() {
      const { predictedCpus, achievedCpus } = await readDecided();
      this.set({ kind: 'predicted' }, predictedCpus);
      this.set({ kind: 'achieved' }, achievedCpus);
    },
  });
}
