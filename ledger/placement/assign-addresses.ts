import { createHash } from 'node:crypto';
import type { QueueVerdict } from '../../scheduler/placement.ts';
import type { LedgerDeps, Transaction } from '../transaction.ts';
import { freeAddress, macOf } from './addresses.ts';
import { addNetworks, networkMap, type OwnerNetwork } from './owner-networks.ts';
import type { NetworkRow, QueueRow } from './read-waiting.ts';

export interface PlacedVm {
  vm: string;
  host: string;
  address: string;
  mac: string;
}

export type PlacementDecision = { row: QueueRow; verdict: QueueVerdict };

/** A number that is derived from an id and a generation, evenly distributed. */
export function addressSeed(vm: { id: string; generation: number }): number {
  return createHash('sha256').update(`${vm.id}/${vm.generation}`).digest().readUInt32BE();
}

/** Addresses for all VMs of a task; null when its owner's network has too few. */
function allocateAddresses(row: QueueRow, hosts: string[], network: OwnerNetwork): PlacedVm[] | null {
  const placed: PlacedVm[] = [];
  for (const [node, vm] of row.vms.entries()) {
    const address = freeAddress(network.cidr, network.taken, addressSeed(vm));
    if (address === null) {
      for (const { address: allocated } of placed) network.taken.delete(allocated);
      return null;
    }
    network.taken.add(address);
    placed.push({ vm: vm.id, host: hosts[node]!, address, mac: macOf(address) });
  }
  return placed;
}

/** Assigns addresses to the placed VMs; a task for which there are too few continues to wait. */
export async function assignAddresses(
  deps: LedgerDeps,
  tx: Transaction,
  decisions: PlacementDecision[],
  hosts: number,
  known: NetworkRow[],
): Promise<PlacedVm[]> {
  const owners = [...new Set(decisions.flatMap(({ row, verdict }) => (verdict.kind === 'placed' ? [row.owner] : [])))];
  const networks = networkMap(known);
  await addNetworks(tx, deps.control.BERTH_GUEST_SUPERNET, owners, networks);
  const placed: PlacedVm[] = [];
  for (const decision of decisions) {
    if (decision.verdict.kind !== 'placed') continue;
    const network = networks.get(decision.row.owner) ?? null;
    const vms = network === null ? null : allocateAddresses(decision.row, decision.verdict.hosts, network);
    if (vms === null)
      decision.verdict = {
        kind: 'waits',
        refusal: { hosts, failed: { [network === null ? 'network' : 'address']: hosts } },
        overtaken: decision.row.overtaken,
      };
    else placed.push(...vms);
  }
  return placed;
}
