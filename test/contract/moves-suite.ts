import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { domainConfig } from '../../activities/host/vm/domain-config.ts';
import { domainName } from '../../activities/host/vm/domain-names.ts';
import { newRecord } from '../../activities/host/vm-record.ts';
import type { DomainConfig, DomainDisk } from '../../contracts/domain.ts';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { newId, type VmId } from '../../model/ids.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import type { VmSpec } from '../../model/vm.ts';
import { vmOf } from './requests.ts';
import { type Bench, codeOf } from './suite.ts';

/** One of two connected hosts. */
export interface MovesBench extends Bench {
  address: string;
  /** Where guests are real: starts what writes to many pages of a guest's memory, and tells of those that it finds older. */
  pageWriter: { start(domain: string): Promise<void>; lostPages(vm: VmId): Promise<string[]> } | null;
}

const never = new AbortController().signal;
const all: ColdCopyFile[] = ['memory', 'overlay', 'data'];

/**
 * The contract of the ports that move VMs between two hosts, for the fakes and the real ones: memory of a running VM
 * (Migrator), its disks afterwards (DiskMover), and all of it as files (ColdCopy).
 */
export function movesContract(
  what: string,
  open: () => Promise<{ hosts: [MovesBench, MovesBench]; stop(): Promise<void> }>,
  bootDeadlineMs: number,
): void {
  describe(what, () => {
    let [a, b]: MovesBench[] = [];
    let stop: () => Promise<void> = async () => undefined;
    let made: VmId[] = [];
    const here = (): HostPorts => a!.ports();
    const there = (): HostPorts => b!.ports();

    beforeAll(async () => {
      const opened = await open();
      [a, b] = opened.hosts;
      stop = opened.stop;
      // One image, which each host fetches from a repository of its own.
      await here().imageCache.ensure(a!.image(), never);
      await there().imageCache.ensure({ ...a!.image(), parts: b!.image().parts }, never);
    });
    afterEach(async () => {
      const both = [here(), there()];
      // The domains first: one of them may have opened the other host's disks.
      for (const id of made) for (const { hypervisor } of both) await hypervisor.destroy(domainName(id));
      for (const id of made)
        for (const { coldCopy, store } of both) {
          await coldCopy.removeTransferFiles(id);
          await store.remove(id, 99);
        }
      made = [];
    });
    afterAll(() => stop());

    const network = { vni: 9, cidr: '10.128.8.0/24', gateway: '10.128.8.1' };
    function newVm(): VmSpec {
      const vm = vmOf(a!.image(), { memoryMiB: 192, diskMiB: 32, network });
      made.push(vm.id);
      return vm;
    }

    /** The far side answers synchronous methods with promises: the paths are fetched beforehand. */
    async function configAt({ imageCache, probe, network, store }: HostPorts, vm: VmSpec, diskHostAddress: string | null) {
      const paths = await store.paths(vm.id);
      return domainConfig(
        { imageCache, probe, network, store: { paths: () => paths } } as unknown as HostPorts,
        vm,
        diskHostAddress,
      );
    }

    /** A VM that runs here and whose agent answers; the other host has a record of it, as prepareIncoming writes one. */
    async function running(): Promise<{ vm: VmSpec; name: string; config: DomainConfig; to: DomainConfig }> {
      const vm = newVm();
      const name = domainName(vm.id);
      const ports = here();
      await ports.store.writeDurably(newRecord(vm));
      const folder = await ports.store.resetInputs(vm.id);
      const paths = await ports.store.paths(vm.id);
      await ports.diskTool.createDataDisk(paths.data, folder, vm.diskMiB);
      await ports.diskTool.createOverlay(paths.overlay, (await ports.imageCache.find(vm.image.id))!.disk, vm.image.virtualMiB);
      const config = await configAt(ports, vm, null);
      await ports.hypervisor.create(config);
      await answers(ports, name);
      await there().store.writeDurably(newRecord({ ...vm, generation: 2 }));
      return { vm, name, config, to: await configAt(there(), vm, a!.address) };
    }

    const answers = (ports: HostPorts, name: string): Promise<void> =>
      expect.poll(() => ports.guest.ping(name), { timeout: bootDeadlineMs, interval: 20 }).toBe(true);

    describe('memory that moves', () => {
      it(
        'arrives paused and complete, while the source is gone; then the disks follow, and count all the same',
        async () => {
          const { vm, name, to } = await running();
          const boot = await here().guest.bootId(name);
          await a!.pageWriter?.start(name);
          expect(await here().migrator.observeJob(name)).toMatchObject({ active: false });
          await here().migrator.setMaxDowntime(name, 100);
          await there().consoleHistory.expect(vm.id, { address: a!.address, generation: 2 });
          await here().migrator.migrate({ config: to, targetAddress: b!.address, deadlineMs: 60_000 });
          await expect.poll(() => here().hypervisor.status(name), { timeout: 10_000, interval: 20 }).toBeNull();
          expect(await here().migrator.observeJob(name)).toBeNull();
          expect(await there().hypervisor.status(name)).toEqual({ state: 'paused', reason: 'user' });
          await there().hypervisor.resumeCpus(name);
          await answers(there(), name);
          expect(await there().guest.bootId(name)).toBe(boot);
          expect((await b!.pageWriter?.lostPages(vm.id)) ?? []).toEqual([]);
          const before = (await here().store.readConsole(vm.id, { last: 4096 }))!.bytes.toString();
          expect(before).not.toBe('');
          expect((await there().store.readConsole(vm.id, { last: 8192 }))?.bytes.toString() ?? '').not.toContain(before);
          await here().consoleHistory.leave(vm.id, 2);
          await there().consoleHistory.arrived(vm.id);
          expect((await there().store.readConsole(vm.id, { last: 2 ** 17 }))!.bytes.toString()).toContain(before);

          const { diskMover, diskTool: disks, imageCache: images, store } = there();
          expect([...(await sourcesOf(name)).values()].map(({ kind }) => kind)).toEqual(['nfs', 'nfs']);
          const disk = (await configAt(there(), vm, null)).disks.find(({ target }) => target === 'vda') as DomainDisk;
          expect(await codeOf(diskMover.startCopy(name, disk))).toBe('hypervisor');
          expect(await diskMover.observeCopy(name, 'vda')).toBeNull();
          const { overlay } = await store.paths(vm.id);
          await disks.createOverlay(overlay, (await images.find(vm.image.id))!.disk, vm.image.virtualMiB);
          await diskMover.startCopy(name, disk);
          expect(await codeOf(diskMover.startCopy(name, disk))).toBe('hypervisor');
          await diskMover.abortCopy(name, 'vda');
          await diskMover.abortCopy(name, 'vda');
          expect(await diskMover.observeCopy(name, 'vda')).toBeNull();
          expect(await codeOf(diskMover.pivot(name, 'vda'))).toBe('hypervisor');
          expect((await sourcesOf(name)).get('vda')).toMatchObject({ kind: 'nfs' });
          await diskMover.startCopy(name, disk);
          // Sleeps by the host's clock: the fake's copies progress by it.
          const isReady = async () => (await diskMover.observeCopy(name, 'vda'))?.ready;
          for (let polls = 0; (await isReady()) !== true && polls < 1200; polls += 1) await there().clock.sleep(50);
          await diskMover.pivot(name, 'vda');
          expect((await sourcesOf(name)).get('vda')).toEqual({ kind: 'file', path: overlay });
          expect((await sourcesOf(name)).get('vdb')).toMatchObject({ kind: 'nfs' });
          await answers(there(), name);
        },
        2 * bootDeadlineMs + 60_000,
      );

      it(
        'arrives paused where it was paused before, which it stays at its source until then',
        async () => {
          const { name, to } = await running();
          const boot = await here().guest.bootId(name);
          await here().hypervisor.pauseCpus(name);
          await here().migrator.setMaxDowntime(name, 100);
          const seen: string[] = [];
          let moving = true;
          const watching = (async () => {
            for (; moving; await delay(5)) {
              const status = await here().hypervisor.status(name);
              if (status !== null) seen.push(`${status.state} ${status.reason}`);
            }
          })();
          await here().migrator.migrate({ config: to, targetAddress: b!.address, deadlineMs: 60_000 });
          moving = false;
          await watching;
          expect(seen).toContain('paused user');
          // As it ends, libvirt has it shut off for a moment.
          expect(seen.filter((status) => /^running|^paused (?!user$)/.test(status))).toEqual([]);
          await expect.poll(() => here().hypervisor.status(name), { timeout: 10_000, interval: 20 }).toBeNull();
          expect(await there().hypervisor.status(name)).toEqual({ state: 'paused', reason: 'user' });
          await there().hypervisor.resumeCpus(name);
          await answers(there(), name);
          expect(await there().guest.bootId(name)).toBe(boot);
        },
        2 * bootDeadlineMs + 60_000,
      );

      const sourcesOf = (name: string) => there().diskMover.readSources(name);

      it(
        'remains at the source when the move is refused or ended, and nothing is left at the target',
        async () => {
          const { name, to } = await running();
          const request = { targetAddress: b!.address, deadlineMs: 60_000 };
          const nowhere: DomainConfig = { ...to, nic: { ...to.nic, bridge: 'bgfff' } };
          expect(await codeOf(here().migrator.migrate({ ...request, config: nowhere }))).toBe('hypervisor');
          const missing = { ...to.disks[1]!, source: { kind: 'nfs', host: a!.address, path: '/var/lib/berth/not' } } as const;
          expect(await codeOf(here().migrator.migrate({ ...request, config: { ...to, disks: [to.disks[0]!, missing] } }))).toBe(
            'hypervisor',
          );
          const moving = codeOf(here().migrator.migrate({ ...request, config: to }));
          const isActive = async () => (await here().migrator.observeJob(name))?.active;
          await expect.poll(isActive, { timeout: 10_000, interval: 1 }).toBe(true);
          // The source has the job, also while the target is only preparing.
          const arrives = () => there().hypervisor.status(name);
          await expect.poll(arrives, { timeout: 10_000, interval: 1 }).toMatchObject({ state: 'paused' });
          expect((await there().migrator.observeJob(name))?.active).not.toBe(true);
          await here().migrator.abort(name);
          await here().migrator.abort(name);
          expect(await moving).toBe('hypervisor');
          expect(await here().hypervisor.status(name)).toMatchObject({ state: 'running' });
          await expect.poll(() => there().hypervisor.status(name), { timeout: 10_000, interval: 20 }).toBeNull();
          expect(await here().migrator.observeJob(name)).toMatchObject({ active: false });
          await answers(here(), name);
          const load = await here().migrator.measureLoad(name);
          expect(load).toMatchObject({ residentMiB: expect.any(Number), busyCpus: expect.any(Number) });
          expect(load!.busyCpus).toBeGreaterThanOrEqual(0);
          const used = await here().migrator.readCpuSeconds(name);
          expect(used).toBeGreaterThanOrEqual(0);
          await expect
            .poll(
              () =>
                here()
                  .migrator.measureLoad(name)
                  .then(() => here().migrator.readCpuSeconds(name)),
              { timeout: 20_000 },
            )
            .toBeGreaterThanOrEqual(used!);
        },
        bootDeadlineMs + 60_000,
      );

      it('of a domain that is not there is nothing, and ending that changes nothing', async () => {
        const name = domainName(newId('vm'));
        expect(await here().migrator.observeJob(name)).toBeNull();
        expect(await here().migrator.measureLoad(name)).toBeNull();
        expect(await here().migrator.readCpuSeconds(name)).toBeNull();
        await here().migrator.abort(name);
        expect(await codeOf(here().migrator.setMaxDowntime(name, 100))).toBe('hypervisor');
        expect(
          await codeOf(
            here()
              .diskMover.readSources(name)
              .then(() => undefined),
          ),
        ).toBe('hypervisor');
      });
    });

    describe('a VM as files', () => {
      it(
        'resumes on the other host from the files that were copied, and on its return transfers only what changed',
        async () => {
          const { vm, name } = await running();
          const boot = await here().guest.bootId(name);
          await save(here(), vm);
          const first = await carry(vm, [a!, b!]);
          expect(first.bytes).toBeLessThan(first.totalBytes);
          await here().coldCopy.keepPreviousVersion(vm.id, all);
          await here().coldCopy.removeTransferFiles(vm.id);
          const { memory } = await there().store.paths(vm.id);
          expect(await there().hypervisor.isSaved(memory)).toBe(true);
          await there().hypervisor.restore(memory, await configAt(there(), vm, null));
          await there().hypervisor.resumeCpus(name);
          await answers(there(), name);
          expect(await there().guest.bootId(name)).toBe(boot);
          await there().store.removeMemory(vm.id);
          await save(there(), vm);
          const back = await carry(vm, [b!, a!]);
          expect(back.bytes).toBeLessThan(first.bytes / 2);
        },
        3 * bootDeadlineMs + 60_000,
      );

      async function save(ports: HostPorts, vm: VmSpec): Promise<void> {
        await ports.hypervisor.save(domainName(vm.id), (await ports.store.paths(vm.id)).memoryPartial);
        await ports.store.commitMemory(vm.id);
      }

      async function carry(vm: VmSpec, [from, to]: [MovesBench, MovesBench]) {
        const { chunks } = await to.ports().coldCopy.offerCachedChunks(vm.id);
        const packing = from.ports().coldCopy.pack(vm.id, all, { address: to.address, chunks });
        expect(await passesOf(from, vm, packing)).toEqual([['pack', null]]);
        const packed = await packing;
        const unpacking = to.ports().coldCopy.unpack(vm.id, { address: from.address, bytes: packed.bytes });
        expect(await passesOf(to, vm, unpacking)).toEqual([
          ['fetch', from.address],
          ['unpack', from.address],
        ]);
        await unpacking;
        return packed;
      }

      /** What can be observed of a copy in progress: each of its passes, which comes nearer to its end. */
      async function passesOf(bench: MovesBench, { id }: VmSpec, copying: Promise<unknown>) {
        const over = copying.then(
          () => true,
          () => true,
        );
        const seen: ColdCopyPass[] = [];
        do {
          const pass = await bench.ports().coldCopy.observePass(id);
          const last = seen.at(-1);
          if (pass !== null && pass.kind !== last?.kind) seen.push(pass);
          else if (pass !== null && last !== undefined) {
            expect(pass.doneBytes).toBeGreaterThanOrEqual(last.doneBytes);
            expect(pass.elapsedMs).toBeGreaterThanOrEqual(last.elapsedMs);
            seen[seen.length - 1] = pass;
          }
        } while (!(await Promise.race([over, delay(1, false)])));
        for (const { doneBytes, totalBytes } of seen) expect(doneBytes).toBeLessThanOrEqual(totalBytes);
        expect(await bench.ports().coldCopy.observePass(id)).toBeNull();
        return seen.map(({ kind, from }) => [kind, from]);
      }

      it('is not fetched from a host that has packed nothing', async () => {
        const vm = newVm();
        await there().store.writeDurably(newRecord(vm));
        await expect(there().coldCopy.unpack(vm.id, { address: a!.address, bytes: 1024 })).rejects.toThrow();
        const { memory } = await there().store.paths(vm.id);
        expect(await there().hypervisor.isSaved(memory)).toBe(false);
      });
    });
  });
}
