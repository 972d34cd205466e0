import { z } from 'zod';
import { vmLoadFields } from '../../model/load/load.ts';
import type { Ledger } from '../client.ts';
import { readLatestLoads } from './read-loads.ts';

/** A VM and its last sample. */
export interface BusyVm {
  vm: string;
  name: string;
  host: string;
  vcpus: number;
  memoryMiB: number;
  /** When the sample ended. */
  atMs: number;
  values: (number | null)[];
}

const Row = z.strictObject({ vm: z.string(), name: z.string(), host: z.string(), vcpus: z.int(), memoryMiB: z.int() });

/**
 * Those that keep the most processors busy first; a VM is read from the host that has it by the ledger, and from no other.
 * @param owner whose VMs; null: every owner's
 */
export async function readBusyVms(ledger: Ledger, owner: string | null, nowMs: number): Promise<BusyVm[]> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT v.id AS vm, v.name, h.id AS host, v.vcpus, v."memoryMiB" FROM "Host" h JOIN "Vm" v ON v."hostId" = h.id
    WHERE h."removedAt" IS NULL AND v.state IN ('running', 'migrating') AND (${owner}::text IS NULL OR v."ownerId" = ${owner})`;
  const vms = z.array(Row).parse(rows);
  const loads = new Map(
    (await readLatestLoads(ledger, [...new Set(vms.map(({ host }) => host))], nowMs)).map((one) => [one.hostId, one]),
  );
  const cpus = vmLoadFields.indexOf('cpus');
  return vms
    .flatMap((vm) => {
      const latest = loads.get(vm.host);
      const values = latest?.vms.get(vm.vm);
      return latest === undefined || values === undefined ? [] : [{ ...vm, atMs: latest.atMs, values }];
    })
    .sort((a, b) => (b.values[cpus] ?? 0) - (a.values[cpus] ?? 0) || (a.vm < b.vm ? -1 : 1));
}
