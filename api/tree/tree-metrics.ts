import { Gauge, type Registry } from 'prom-client';
import type { EntryCounts } from '../../ledger/tree/entry-counts.ts';

/** Gauges of owners' trees, over all owners. */
export function openTreeMetrics(registry: Registry, read: () => Promise<EntryCounts>): void {
  new Gauge({
    name: 'berth_tree_entries',
    help: 'Paths of all trees, those in the trash included',
    registers: [registry],
    async collect() {
      this.set((await read()).entries);
    },
  });
  new Gauge({
    name: 'berth_trash_entries',
    help: 'Paths in the trash of all owners',
    registers: [registry],
    async collect() {
      this.set((await read()).trash);
    },
  });
  new Gauge({
    name: 'berth_tree_overdue_seconds',
    help: 'Since the first of what is in the trash should have been purged; 0: nothing is overdue',
    registers: [registry],
    async collect() {
      this.set((await read()).overdueS);
    },
  });
}
