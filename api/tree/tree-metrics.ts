import { Gauge, type Registry } from 'prom-client';
import type { EntryCounts } from '../../ledger/tree/entry-counts.ts';

/** Gauges of owners' trees, over all owners. */
export function openTreeMetrics(registry: Registry, read: () => Promise<EntryCounts>): void {
  new Gauge({
    name: 'berth_tree_entries',
    help: 'Paths of all trees, and of what was deleted from them',
    labelNames: ['place'],
    registers: [registry],
    async collect() {
      const { entries, trash } = await read();
      this.set({ place: 'tree' }, entries - trash);
      this.set({ place: 'trash' }, trash);
    },
  });
  new Gauge({
    name: 'berth_trash_overdue_seconds',
    help: 'Since the first of what is in the trash should have been purged; 0: nothing is overdue',
    registers: [registry],
    async collect() {
      this.set((await read()).overdueS);
    },
  });
}
