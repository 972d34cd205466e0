import { setTimeout as delay } from 'node:timers/promises';
import type { Ledger } from '../../ledger/client.ts';
import type { MigrationAnswer } from '../../test/site/moves.ts';
import { move, moveOver } from '../../test/site/moves.ts';
import type { TestSite } from '../../test/site/the-site.ts';
import { onHost } from '../../test/site/the-site.ts';
import type { Probe } from '../probe.ts';

export interface GuestKind {
  name: string;
  memoryMiB: number;
  command: string;
}

export interface Move {
  totalMs: number;
  downtimeMs: number;
  imageBytes: number;
  phases: MigrationAnswer['phases'];
}

/** Rewrites 8 MiB of its memory about ten times a second, as fast as emulation permits. */
export const dirtying =
  'while :; do dd if=/dev/urandom of=/dev/shm/dirty bs=1M count=8 conv=notrunc 2>/dev/null; sleep 0.2; done';

export const pollMs = 10;

/** No migration ends sooner than this. */
export const firstPollMs = 300;

export const deadlineMs = 240_000;

export async function makeOurs(test: TestSite, kind: GuestKind): Promise<DomainDescription & { task: string }> {
  const { id: task } = await test.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', kind.command],
    resources: { vcpus: 1, memoryMiB: kind.memoryMiB, diskMiB: 64 },
    timeoutS: 3600,
    lease: { kind: 'bestEffort', durationS: 7200 },
  });
  const { vms } = await test.client.until(task, ['running']);
  return { ...(await moveToTestHosts(test, vms[0]!)), task };
}

export async function endOurs(test: TestSite, { task }: { task: string }): Promise<void> {
  await test.client.callWithRetry('DELETE', `/v1/tasks/${task}`);
  await test.client.over(task);
}

/** Migrates the VM, if necessary, to one of the first two hosts, between which all measured migrations run. */
export async function moveToTestHosts(test: TestSite, id: string): Promise<DomainDescription> {
  const vm = await describe(test, id);
  if (vm.host !== test.site.hosts[2]!.id) return vm;
  const over = await moveOver(test, (await move(test, id, { to: test.site.hosts[0]!.id, moveDisk: true })).id);
  if (over.state !== 'succeeded' || over.error !== null) throw new Error(`it stays where it is: ${JSON.stringify(over.error)}`);
  return describe(test, id);
}

export interface DomainDescription {
  id: string;
  host: string;
  home: string;
  address: string;
  xml: string;
  bridge: string;
  /** Gateway address with the network's prefix length. */
  network: string;
}

export async function describe(test: TestSite, id: string): Promise<DomainDescription> {
  const { host, home, address } = (
    await test.client.callWithRetry<{ host: string; home: string; address: string }>('GET', `/v1/vms/${id}`)
  ).body;
  const xml = await onHost(test, host, ['virsh', '-q', 'dumpxml', id, '--migratable']);
  const bridge = bridgePattern.exec(xml)?.[1];
  if (bridge === undefined) throw new Error(`no bridge in the domain's XML: ${xml}`);
  const network = /inet ([0-9./]+)/.exec(await onHost(test, host, ['ip', '-4', '-o', 'addr', 'show', 'dev', bridge]))?.[1];
  if (network === undefined) throw new Error(`bridge ${bridge} has no address`);
  return { id, host, home, address: address.split('/')[0]!, xml, bridge, network };
}

export const bridgePattern = /<source bridge='([^']+)'/;

export const imagePattern = /<backingStore[^>]*>\s*<format[^>]*\/>\s*<source file='([^']+)'/;

/** An address of the owner's network, far from the addresses that the ledger allocates. */
export const addressAt = (network: string, last: number): string => network.replace(/\.\d+\//, `.${last}/`);

/** Migrates from one of the first two hosts to the other. */
export async function moveOurs(test: TestSite, ledger: Ledger, vm: DomainDescription, probe: Probe): Promise<Move> {
  const { host } = (await test.client.callWithRetry<{ host: string }>('GET', `/v1/vms/${vm.id}`)).body;
  const to = test.site.hosts.slice(0, 2).find(({ id }) => id !== host)!.id;
  // On its home host the guest writes to its disks during the migration, so they are not counted there.
  const files = to === vm.home ? null : vm.id;
  const before = await diskBytes(test, to, files);
  let totalMs = 0;
  let phases: MigrationAnswer['phases'] = [];
  const { longestGapMs } = await probe.during(vm.address, async () => {
    const startedMs = performance.now();
    const { id } = await move(test, vm.id, { to });
    await untilOver(ledger, id);
    const over = await moveOver(test, id);
    totalMs = performance.now() - startedMs;
    phases = over.phases;
    if (over.state !== 'succeeded') throw new Error(`the migration is ${over.state}: ${JSON.stringify(over.error)}`);
  });
  const imageBytes = Math.max(0, (await diskBytes(test, to, files)) - before);
  return { totalMs, downtimeMs: longestGapMs, imageBytes, phases };
}

/** Reads the ledger: a request to the API every 10 ms would use much of the two processors that are being measured. */
export async function untilOver(ledger: Ledger, id: string): Promise<void> {
  await delay(firstPollMs);
  for (const untilMs = Date.now() + deadlineMs; ; await delay(pollMs)) {
    const { finishedAt } = await ledger.migration.findUniqueOrThrow({ where: { id }, select: { finishedAt: true } });
    if (finishedAt !== null) return;
    if (Date.now() > untilMs) throw new Error(`${id} is not over after ${deadlineMs / 1000} s`);
  }
}

/**
 * Bytes of images, and of a VM's disks, on a host's own disk. Excludes templates, which are made there and never
 * transferred.
 */
export async function diskBytes(test: TestSite, host: string, vm: string | null): Promise<number> {
  const disks = vm === null ? '' : `/var/lib/berth/vms/${vm}/*.qcow2 /var/lib/berth/vms/${vm}/*.raw`;
  const script = `du -sB1 --exclude=templates /var/lib/berth/images ${disks} 2>/dev/null | awk '{sum += $1} END {print sum + 0}'`;
  return Number((await onHost(test, host, ['sh', '-c', script])).trim());
}
