import { createHash } from 'node:crypto';
import type { QueueVerdict } from '../../scheduler/placement.ts';
import type { LedgerDeps, Transaction } from '../transaction.ts';
import { freeAddress, macOf, networkPrefix, prefixOf } from './addresses.ts';
import { createNetwork, growNetwork, readAddresses } from './owner-networks.ts';
import type { QueueRow } from './read-waiting.ts';

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

/** How many addresses of a VM are probed; where all are taken, which needs a network that is almost full, it is read whole. */
const probes = 8;
/** Between them: VMs that were placed after one another often have addresses after one another. */
const probeStride = 127;

interface AddressOffer {
  vm: string;
  owner: string;
  cidr: string;
  /** The owner's own quota. */
  maxVcpus: number | null;
  /** In the order in which they are preferred. */
  free: string[];
}

/**
 * Free addresses for VMs of owners that have networks, by one probe of an index for each candidate: an owner may have
 * thousands of addresses in use, and a pass the VMs of a hundred owners.
 */
async function readOffers(tx: Transaction, vms: readonly { vm: string; owner: string; seed: number }[]): Promise<AddressOffer[]> {
  return tx.$queryRaw<AddressOffer[]>`
    SELECT v.vm, n."ownerId" AS owner, n.cidr, o."maxVcpus", ARRAY(
      SELECT c.address FROM (
        SELECT k, host(set_masklen(n.cidr::inet, 32) + 2 + ((v.seed + k * ${probeStride}) % ((2 ^ (32 - masklen(n.cidr::inet)))::bigint - 3))) AS address
        FROM generate_series(0, ${probes - 1}) k) c
      WHERE NOT EXISTS (SELECT FROM "Vm" o WHERE o.address = c.address AND o.state NOT IN ('pending', 'removed'))
        AND NOT EXISTS (SELECT FROM "Fence" f WHERE f.address = c.address)
        AND NOT EXISTS (SELECT FROM "PublishedPort" p WHERE p.address = c.address AND p.state = 'removing')
        AND NOT EXISTS (SELECT FROM "EdgeSegment" e WHERE e.address = c.address)
      ORDER BY c.k) AS free
    FROM jsonb_to_recordset(${JSON.stringify(vms)}::jsonb) AS v(vm text, owner text, seed bigint) JOIN "Network" n ON n."ownerId" = v.owner
      JOIN "Owner" o ON o.id = v.owner`;
}

const isOutgrown = ({ cidr, maxVcpus }: AddressOffer): boolean => maxVcpus !== null && networkPrefix(maxVcpus) < prefixOf(cidr);

/** The addresses that a pass allocates. */
class AddressBook {
  readonly #tx: Transaction;
  readonly #allocated = new Set<string>();
  readonly #offers: Map<string, AddressOffer>;
  /** By owner; null: the site's supernet has no network for it. */
  readonly #cidrs: Map<string, string | null>;
  readonly #whole = new Map<string, Set<string>>();

  private constructor(tx: Transaction, offers: readonly AddressOffer[], cidrs: Map<string, string | null>) {
    this.#tx = tx;
    this.#offers = new Map(offers.map((offer) => [offer.vm, offer]));
    this.#cidrs = cidrs;
  }

  static async open(deps: LedgerDeps, tx: Transaction, rows: readonly QueueRow[]): Promise<AddressBook> {
    const vms = rows.flatMap(({ owner, vms }) => vms.map((vm) => ({ vm: vm.id, owner, seed: addressSeed(vm) })));
    const found = vms.length === 0 ? [] : await readOffers(tx, vms);
    const cidrs = new Map<string, string | null>(found.map(({ owner, cidr }) => [owner, cidr]));
    const grown = new Set<string>();
    for (const owner of new Set(found.filter(isOutgrown).map((offer) => offer.owner))) {
      const larger = await growNetwork(tx, deps.control.BERTH_GUEST_SUPERNET, owner);
      if (larger === null) continue;
      cidrs.set(owner, larger);
      grown.add(owner);
    }
    const offers = found.filter(({ owner }) => !grown.has(owner));
    for (const owner of new Set(rows.map((row) => row.owner)))
      if (!cidrs.has(owner)) cidrs.set(owner, await createNetwork(tx, deps.control.BERTH_GUEST_SUPERNET, owner));
    return new AddressBook(tx, offers, cidrs);
  }

  hasNetwork(owner: string): boolean {
    return this.#cidrs.get(owner) != null;
  }

  /** Addresses for all VMs of a task; null when its owner's network has too few. */
  async allocate(row: QueueRow, hosts: readonly string[]): Promise<PlacedVm[] | null> {
    const placed: PlacedVm[] = [];
    for (const [node, vm] of row.vms.entries()) {
      const address = await this.#next(row.owner, vm);
      if (address === null) {
        for (const one of placed) this.#allocated.delete(one.address);
        return null;
      }
      this.#allocated.add(address);
      placed.push({ vm: vm.id, host: hosts[node]!, address, mac: macOf(address) });
    }
    return placed;
  }

  async #next(owner: string, vm: QueueRow['vms'][number]): Promise<string | null> {
    const offered = this.#offers.get(vm.id)?.free.find((address) => !this.#allocated.has(address));
    if (offered !== undefined) return offered;
    const cidr = this.#cidrs.get(owner) ?? null;
    if (cidr === null) return null;
    const taken = this.#whole.get(owner) ?? (await readAddresses(this.#tx, owner));
    this.#whole.set(owner, taken);
    return freeAddress(cidr, new Set([...taken, ...this.#allocated]), addressSeed(vm));
  }
}

/** Assigns addresses to the placed VMs; a task for which there are too few continues to wait. */
export async function assignAddresses(
  deps: LedgerDeps,
  tx: Transaction,
  decisions: PlacementDecision[],
  hosts: number,
): Promise<PlacedVm[]> {
  const rows = decisions.flatMap(({ row, verdict }) => (verdict.kind === 'placed' ? [row] : []));
  const book = await AddressBook.open(deps, tx, rows);
  const placed: PlacedVm[] = [];
  for (const decision of decisions) {
    if (decision.verdict.kind !== 'placed') continue;
    const vms = await book.allocate(decision.row, decision.verdict.hosts);
    if (vms === null)
      decision.verdict = {
        kind: 'waits',
        refusal: { hosts, failed: { [book.hasNetwork(decision.row.owner) ? 'address' : 'network']: hosts } },
        overtaken: decision.row.overtaken,
      };
    else placed.push(...vms);
  }
  return placed;
}
