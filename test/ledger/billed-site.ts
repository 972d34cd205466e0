import { findAccount, openAccount, ownerAccount, siteAccount } from '../../ledger/books/accounts.ts';
import { postTransfer } from '../../ledger/books/post-transfers.ts';
import { readQuote } from '../../ledger/leases/read-quote.ts';
import { collectDueBills } from '../../ledger/market/collect-bills.ts';
import { acceptPriceBookOnce } from '../../ledger/market/price-books.ts';
import { findBill } from '../../ledger/market/read-bills.ts';
import { acceptTaskOnce } from '../../ledger/tasks/request-task.ts';
import { inTransaction, requestLimits } from '../../ledger/transaction.ts';
import { acceptVmOnce } from '../../ledger/vms/request-vm.ts';
import type { TaskEndedData, VmRemovedData } from '../../model/events.ts';
import type { AccountId, TaskId, VmId } from '../../model/ids.ts';
import { billOf } from '../../model/money/bill.ts';
import { costByProvider } from '../../model/money/cost.ts';
import { meteredIntervals } from '../../model/money/metered.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import { quotaNames } from '../../model/owners/quota.ts';
import { LeaseSpec, TaskSpec, type Usage } from '../../model/task.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { addOwner, type LedgerFixture } from './ledger-fixture.ts';

export const resources = { vcpus: 1, memoryMiB: 1024, diskMiB: 960 };
/** Of the image: with it, the disks of a VM are a GiB. */
export const virtualMiB = 64;
const quotas = Object.fromEntries(quotaNames.map((name) => [name, 1_000_000_000])) as Parameters<
  typeof acceptTaskOnce
>[2]['quotas'];
const publicPorts = { addresses: [], first: 1, last: 1 };
const stored = (location: string) => ({ status: 202, text: '', location });

/** Prices of a round hour: a vCPU 100, a GiB of memory 10, a GiB of disk 1, of the owner's default VM 111 units. */
export const hourly = (more: Record<string, unknown> = {}, [vcpu, memory, disk] = [100, 10, 1]) =>
  PriceTerms.parse({
    rules: [
      {
        vcpuHourMicros: String(vcpu * 1_000_000),
        memoryGiBHourMicros: String(memory * 1_000_000),
        diskGiBHourMicros: String(disk * 1_000_000),
      },
    ],
    ...more,
  });

/** A site with prices, on the ledger of a test's fixture: orders as the API accepts them, and what becomes of their money. */
export class BilledSite {
  named = 0;
  readonly fixture: LedgerFixture;
  constructor(fixture: LedgerFixture) {
    this.fixture = fixture;
  }

  fresh(what: string): string {
    this.named += 1;
    return `${what}-${this.named}`;
  }

  private request(ownerId: string, path: string) {
    return { ownerId, key: null, method: 'POST', path, fingerprint: '' };
  }

  /** An owner with an account of so many units. */
  async addBuyer(units: number, creditUnits = 0): Promise<{ owner: string; account: AccountId }> {
    const owner = await addOwner(this.fixture, this.fresh('buyer'));
    const nowMs = this.fixture.now;
    const lowerLimitMicros = BigInt(-creditUnits) * 1_000_000n;
    const account = await inTransaction(this.fixture.ledger, (tx) =>
      openAccount(tx, ownerAccount(owner, 'EUR'), { lowerLimitMicros, nowMs }),
    );
    if (units > 0) await this.deposit(account.id, units);
    return { owner, account: account.id };
  }

  async deposit(account: AccountId, units: number): Promise<void> {
    const nowMs = this.fixture.now;
    const amountMicros = BigInt(units) * 1_000_000n;
    await inTransaction(this.fixture.ledger, async (tx) => {
      const from = await openAccount(tx, siteAccount('adjustments', 'EUR'), { lowerLimitMicros: null, nowMs });
      const postings = [
        { account, amountMicros },
        { account: from.id, amountMicros: -amountMicros },
      ];
      const idempotencyKey = this.fresh('deposit');
      await postTransfer(tx, {
        kind: 'adjustment',
        reason: 'paid',
        subject: account,
        keyId: null,
        idempotencyKey,
        atMs: nowMs,
        postings,
      });
    });
  }

  /** Units, as a number: tests have round ones. */
  async balance(account: string): Promise<number> {
    return Number((await findAccount(this.fixture.ledger, null, account)).balanceMicros) / 1e6;
  }

  async addBook(terms: PriceTerms): Promise<string> {
    const nowMs = this.fixture.now;
    const order = { currency: 'EUR', terms, validFromMs: nowMs, validUntilMs: null, nowMs };
    const request = this.request('operator', '/v1/prices');
    return (await acceptPriceBookOnce(this.fixture.ledger, request, order, ({ id }) => stored(`/v1/prices/${id}`))).id;
  }

  async task(owner: string, more: Record<string, unknown> = {}): Promise<TaskId> {
    this.fixture.now += 1000;
    const spec = TaskSpec.parse({ image: 'debian-12', command: ['true'], resources, ...more });
    const order = { owner, spec, keyId: 'key_test', nowMs: this.fixture.now, maxQueued: 1e9, quotas, publicPorts };
    const accepted = await acceptTaskOnce(this.fixture.ledger, this.request(owner, '/v1/tasks'), order, ({ id }) =>
      stored(`/${id}`),
    );
    return accepted.id as TaskId;
  }

  async vm(owner: string, more: Record<string, unknown> = {}): Promise<VmId> {
    this.fixture.now += 1000;
    const order = VmRequest.parse({ name: this.fresh('vm'), image: 'debian-12', resources, ...more });
    const vm = { owner, order, keyId: 'key_test', nowMs: this.fixture.now, quotas, publicPorts };
    const accepted = await acceptVmOnce(this.fixture.ledger, this.request(owner, '/v1/vms'), vm, ({ id }) => stored(`/${id}`));
    return accepted.id as VmId;
  }

  async runningVm(owner: string, more: Record<string, unknown> = {}): Promise<VmId> {
    const id = await this.vm(owner, more);
    const { reserveVm, setVmState, recordVmStarted } = this.fixture.activities;
    if (!(await reserveVm(id)).placed) throw new Error('not placed');
    await setVmState(id, 'creating');
    await recordVmStarted(id, new Date(this.fixture.now).toISOString(), { kind: 'warm' });
    return id;
  }

  async runningTask(owner: string, more: Record<string, unknown> = {}): Promise<TaskId> {
    const id = await this.task(owner, more);
    const { reserveTask, advanceTask } = this.fixture.activities;
    if (!(await reserveTask(id)).placed) throw new Error('not placed');
    await advanceTask(id, 'stagingIn', []);
    await advanceTask(id, 'starting', [], 'creating');
    await advanceTask(id, 'running', [], 'running');
    return id;
  }

  quote(owner: string, lease: Record<string, unknown>, validS = 600) {
    const request = {
      owner,
      image: 'debian-12',
      resources,
      nodes: 1,
      lease: LeaseSpec.parse(lease),
      validS,
      nowMs: this.fixture.now,
    };
    return readQuote(this.fixture.ledger, request);
  }

  collect(end = { graceS: 1800, keepS: 7200 }): Promise<number> {
    return collectDueBills(this.fixture.ledger, end, () => this.fixture.now);
  }

  bill(id: string) {
    return findBill(this.fixture.ledger, null, id);
  }

  /** What the event of a resource's end says that it has used, at the prices of its bill: by what others can compute. */
  async billOfEvent(id: string, broken = false) {
    const { terms, totalMicros } = await this.bill(id);
    const types = ['berth.vm.removed', 'berth.task.succeeded', 'berth.task.failed', 'berth.task.cancelled'];
    const event = await inTransaction(
      this.fixture.ledger,
      (tx) => tx.event.findFirstOrThrow({ where: { subject: id, type: { in: types } } }),
      requestLimits,
    );
    const data = event.data as unknown as VmRemovedData | TaskEndedData;
    const usage: Usage[] = data.usage;
    const intervals = [...new Set(usage.map(({ vm }) => vm))].flatMap((vm) =>
      meteredIntervals(
        usage.filter((one) => one.vm === vm),
        resources.diskMiB + virtualMiB,
        event.time.getTime(),
      ),
    );
    return billOf(terms, costByProvider(terms, intervals), { totalMicros, broken });
  }
}
