import { createHash, randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { domainName, machineId, tapName } from '../../activities/host/vm/domain-names.ts';
import { newRecord } from '../../activities/host/vm-record.ts';
import type { DomainConfig } from '../../contracts/domain.ts';
import type { JobResult } from '../../drivers/ports/guest.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { BerthError } from '../../model/errors.ts';
import { newId, uuidOf, type VmId } from '../../model/ids.ts';
import type { ImageRef, VmSpec } from '../../model/vm.ts';
import { vmOf } from './requests.ts';

/** One host under test: the fake, or a real one in its namespaces. */
export interface Bench {
  ports(): HostPorts;
  /** Serves this content from the repository, and returns its URL. */
  serve(name: string, content: Buffer): string;
  /** Another URL of the repository. */
  url(path: string): string;
  image(): ImageRef;
  /** The log at /log/<name>. */
  log(name: string): Buffer;
  close(): Promise<void>;
}

export const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
    return 'fine';
  } catch (error) {
    return error instanceof BerthError ? error.code : `not a BerthError: ${String(error)}`;
  }
};

const never = new AbortController().signal;
const digest = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

/** The contract of a host's ports, for the fake and the real ones. */
export function portsContract(what: string, open: () => Promise<Bench>, bootDeadlineMs: number): void {
  describe(what, () => {
    let bench: Bench;
    let ports: HostPorts;
    let image: ImageRef;
    let made: VmId[];

    beforeAll(async () => {
      bench = await open();
      ports = bench.ports();
      image = bench.image();
      await ports.imageCache.ensure(image, never);
    });
    beforeEach(() => {
      ports = bench.ports();
      made = [];
    });
    afterEach(async () => {
      for (const id of made) {
        await ports.hypervisor.destroy(domainName(id));
        await ports.store.remove(id, 99);
      }
      await ports.network.removeIfIdle(7, async () => false);
    });
    afterAll(() => bench?.close());

    const network = { vni: 7, cidr: '10.128.8.0/24', gateway: '10.128.8.1' };
    function newVm(): VmSpec {
      const vm = vmOf(image, { network });
      made.push(vm.id);
      return vm;
    }

    /** A folder, both disks with one input, and the network: all that a domain needs. */
    async function prepare(vm: VmSpec, input = Buffer.from('one two three\n')): Promise<void> {
      await ports.store.writeDurably(newRecord(vm));
      const folder = await ports.store.resetInputs(vm.id);
      const url = bench.serve(`words-${vm.id}`, input);
      const request = { url, source: 'repository', sizeBytes: input.length, sha256: digest(input) } as const;
      const limits = { limitBytes: 2 ** 24, limitSeconds: 30, allowInternal: false };
      await ports.inputFetcher.fetch({ ...request, ...limits, destination: `${folder}/in/words` }, never);
      const paths = await pathsOf(vm.id);
      await ports.diskTool.createDataDisk(paths.data, folder, vm.diskMiB);
      const cached = await ports.imageCache.find(image.id);
      await ports.diskTool.createOverlay(paths.overlay, cached!.disk, image.virtualMiB);
      await ports.network.ensure(vm.network);
    }
    // The far side answers synchronous methods with promises.
    const pathsOf = async (id: string) => await ports.store.paths(id);
    async function configOf(vm: VmSpec): Promise<DomainConfig> {
      const paths = await pathsOf(vm.id);
      const cached = (await ports.imageCache.find(image.id))!;
      return {
        name: domainName(vm.id),
        uuid: uuidOf(vm.id),
        vcpus: 1,
        memoryMiB: 256,
        memory: { kind: 'own' },
        accelerator: 'qemu',
        kernel: cached.kernel,
        initrd: cached.initrd,
        cmdline: image.cmdline,
        disks: [
          {
            target: 'vda',
            format: 'qcow2',
            source: { kind: 'file', path: paths.overlay },
            backing: [{ format: 'qcow2', source: { kind: 'file', path: cached.disk } }],
          },
          { target: 'vdb', format: 'raw', source: { kind: 'file', path: paths.data }, backing: [] },
        ],
        cdrom: null,
        nic: { mac: vm.mac, tap: tapName(vm.id), bridge: 'bg7', mtu: 1450 },
        consoleLog: paths.console,
        consoleSocket: paths.consoleSocket,
        identitySocket: paths.identitySocket,
        streamSocket: paths.streamSocket,
        onReboot: 'destroy',
        panicDevice: true,
        unalignedMemory: true,
      };
    }

    describe('the store of VMs', () => {
      it('stores a record as it was written, and replaces it as a whole', async () => {
        const vm = newVm();
        expect(await ports.store.read(vm.id)).toBeNull();
        const record = {
          ...newRecord(vm),
          staged: { bytes: 5 },
          ready: { createMs: 1, bootMs: 2 },
          jobStartedMs: 4,
        };
        await ports.store.writeDurably(record);
        await ports.store.writeDurably({ ...record, generation: 2 });
        expect(await ports.store.read(vm.id)).toEqual({ ...record, generation: 2 });
        await ports.store.writeNonDurable({ ...record, generation: 2, flushed: true });
        expect(await ports.store.read(vm.id)).toEqual({ ...record, generation: 2, flushed: true });
        expect((await ports.store.list()).find(({ vmId }) => vmId === vm.id)?.record?.generation).toBe(2);
        expect(await ports.store.freeMiB()).toBeGreaterThan(0);
      });

      it('remembers the generation of what was removed, whether it existed or not', async () => {
        const vm = newVm();
        expect(await ports.store.removedGeneration(vm.id)).toBeNull();
        await ports.store.remove(vm.id, 3);
        await ports.store.writeDurably(newRecord(vm));
        await ports.store.remove(vm.id, 4);
        await ports.store.remove(vm.id, 4);
        expect(await ports.store.removedGeneration(vm.id)).toBe(4);
        expect(await ports.store.read(vm.id)).toBeNull();
      });

      it('moves what is quarantined out of use and keeps it until it is removed', async () => {
        const vm = newVm();
        await ports.store.quarantine(vm.id);
        await ports.store.writeDurably(newRecord(vm));
        await ports.store.quarantine(vm.id);
        expect(await ports.store.read(vm.id)).toBeNull();
        expect((await ports.store.listQuarantined()).map(({ vmId }) => vmId)).toContain(vm.id);
        await ports.store.removeQuarantined(vm.id);
        await ports.store.removeQuarantined(vm.id);
        expect((await ports.store.listQuarantined()).map(({ vmId }) => vmId)).not.toContain(vm.id);
      });
    });

    describe('the cache of images', () => {
      it('has an image after a request for it, and then at once', async () => {
        expect(await ports.imageCache.ensure(image, never)).toEqual({ from: 'cache', bytes: 0 });
        expect(await ports.imageCache.list()).toContain(image.id);
        expect(await ports.imageCache.find(newId('image'))).toBeNull();
      });

      it('does not store an image whose digest differs', async () => {
        const broken = {
          ...image,
          id: newId('image'),
          parts: { ...image.parts, disk: { ...image.parts.disk, sha256: 'f'.repeat(64) } },
        };
        expect(await codeOf(ports.imageCache.ensure(broken, never))).toBe('image-damaged');
        expect(await ports.imageCache.find(broken.id)).toBeNull();
      });

      it('reports an image that the repository does not have', async () => {
        const gone = { ...image.parts.disk, url: bench.url('/files/nowhere') };
        const missing = { ...image, id: newId('image'), parts: { ...image.parts, disk: gone } };
        expect(await codeOf(ports.imageCache.ensure(missing, never))).toBe('repository-unavailable');
      });

      it('keeps an image from which a VM was made, and removes one that none needs, repeatedly', async () => {
        const vm = newVm();
        const spare = { ...image, id: newId('image') };
        await ports.imageCache.ensure(spare, never);
        await ports.imageCache.pin(spare.id, Date.now() + 1000);
        await ports.store.writeDurably({ ...newRecord(vm), image: spare.id });
        expect(await codeOf(ports.imageCache.remove(spare.id))).toBe('in-use');
        await ports.store.remove(vm.id, 1);
        await ports.imageCache.remove(spare.id);
        await ports.imageCache.remove(spare.id);
        expect(await ports.imageCache.list()).not.toContain(spare.id);
      });
    });

    describe('inputs', () => {
      const request = (vm: VmSpec, more: object) => ({
        source: 'repository' as const,
        sizeBytes: null,
        sha256: null,
        destination: `/var/lib/berth/vms/${vm.id}/inputs/x`,
        limitBytes: 1000,
        limitSeconds: 10,
        allowInternal: false,
        url: '',
        ...more,
      });
      it('are refused when they do not exist, are too large, or differ from their declaration', async () => {
        const vm = newVm();
        await ports.store.writeDurably(newRecord(vm));
        await ports.store.resetInputs(vm.id);
        const url = bench.serve('x', Buffer.from('content'));
        expect(await codeOf(ports.inputFetcher.fetch(request(vm, { url: bench.url('/files/nowhere') }), never))).toBe(
          'input-unavailable',
        );
        expect(await codeOf(ports.inputFetcher.fetch(request(vm, { url, limitBytes: 3 }), never))).toBe('inputs-too-large');
        expect(await codeOf(ports.inputFetcher.fetch(request(vm, { url, sha256: '0'.repeat(64) }), never))).toBe(
          'digest-mismatch',
        );
        expect(await ports.inputFetcher.fetch(request(vm, { url }), never)).toEqual({
          sizeBytes: 7,
          sha256: digest(Buffer.from('content')),
        });
      });
    });

    describe('disks', () => {
      it('exist once they are created', async () => {
        const vm = newVm();
        const paths = await pathsOf(vm.id);
        expect(await ports.diskTool.exists(paths.data)).toBe(false);
        await prepare(vm);
        expect([await ports.diskTool.exists(paths.data), await ports.diskTool.exists(paths.overlay)]).toEqual([true, true]);
      });

      it('return what was written to them', async () => {
        const vm = newVm();
        const content = randomBytes(300_000);
        await prepare(vm, content);
        const { data } = await pathsOf(vm.id);
        const { files } = await ports.diskTool.listFiles(data, ['in/*'], 10, never);
        expect(files.map(({ path, sizeBytes }) => ({ path, sizeBytes }))).toEqual([{ path: 'in/words', sizeBytes: 300_000 }]);
        expect(digest(await contentOf(ports, data, files[0]!))).toBe(digest(content));
        const { skipped } = await ports.diskTool.listFiles(data, ['in/*'], 0, never);
        expect(skipped).toMatchObject({ lost: 1, listed: [{ reason: 'too-many-files' }] });
      });

      it('are too small for content that is larger than they are', async () => {
        const vm = newVm();
        expect(await codeOf(prepare({ ...vm, diskMiB: 8 }, randomBytes(9 * 2 ** 20)))).toBe('inputs-too-large');
        expect(await ports.diskTool.exists((await pathsOf(vm.id)).data)).toBe(false);
      });
    });

    describe("owners' networks", () => {
      it('are created by being ensured, however often, and removed when nothing needs them', async () => {
        const { network } = newVm();
        expect([await ports.network.ensure(network), await ports.network.ensure(network)]).toEqual(['bg7', 'bg7']);
        expect(await ports.network.list()).toContainEqual({ bridge: 'bg7', vni: 7, taps: [] });
        await ports.network.removeIfIdle(7, async () => false);
        await ports.network.removeIfIdle(7, async () => false);
        expect((await ports.network.list()).map(({ vni }) => vni)).not.toContain(7);
      });
    });

    describe('a domain', () => {
      it('runs with its parameters, is refused a second time, and is gone when it is destroyed', async () => {
        const vm = newVm();
        const name = domainName(vm.id);
        expect(await ports.hypervisor.status(name)).toBeNull();
        await prepare(vm);
        await ports.hypervisor.create(await configOf(vm));
        expect(await ports.hypervisor.status(name)).toMatchObject({ state: 'running' });
        expect((await ports.hypervisor.list()).map(({ name: n, uuid }) => [n, uuid])).toContainEqual([name, uuidOf(vm.id)]);
        expect(await ports.network.list()).toContainEqual({ bridge: 'bg7', vni: 7, taps: [tapName(vm.id)] });
        expect(await codeOf(ports.hypervisor.create(await configOf(vm)))).toBe('not-ours');
        // A network with a tap remains, even where `needed` returns false.
        await ports.network.removeIfIdle(7, async () => false);
        expect((await ports.network.list()).map(({ vni }) => vni)).toContain(7);
        await ports.hypervisor.pauseCpus(name);
        expect(await ports.hypervisor.status(name)).toMatchObject({ state: 'paused', reason: 'user' });
        await ports.hypervisor.resumeCpus(name);
        await ports.hypervisor.destroy(name);
        await ports.hypervisor.destroy(name);
        expect(await ports.hypervisor.status(name)).toBeNull();
      });

      it('is measured while it runs, with counters that only grow, and not when it is paused or gone', async () => {
        const vm = newVm();
        const name = domainName(vm.id);
        const meter = ports.loadMeter;
        const measured = async () => (await meter.readDomains()).find((one) => one.name === name);
        await prepare(vm);
        expect(await measured()).toBeUndefined();
        const machine = await meter.readMachine();
        await ports.hypervisor.create(await configOf(vm));
        const first = (await measured())!;
        await ports.clock.sleep(200, never);
        let second = first;
        const memory = async () => {
          second = (await measured())!;
          return second.memoryMiB ?? 0;
        };
        // While the hypervisor works on the domain, as at the guest's first words, it does not say how much memory that has.
        await expect.poll(memory, { timeout: 10_000, interval: 200 }).toBeGreaterThan(0);
        const grows = ['cpuNs', 'delayNs', 'readBytes', 'writtenBytes', 'receivedBytes', 'sentBytes'] as const;
        for (const field of grows) expect([field, second[field] - first[field] >= 0]).toEqual([field, true]);
        expect(second.memoryMiB).toBeGreaterThan(0);
        await ports.hypervisor.pauseCpus(name);
        expect(await measured()).toBeUndefined();
        await ports.hypervisor.destroy(name);
        expect(await measured()).toBeUndefined();
        const later = await meter.readMachine();
        expect(later.atMs).toBeGreaterThan(machine.atMs);
        // Of a host in another process each call is a promise.
        expect(later.atMs).toBeLessThanOrEqual(await meter.nowMs());
        expect(later.processors.length).toBe(machine.processors.length);
        for (const [at, { busy, total }] of later.processors.entries()) {
          const before = machine.processors[at]!;
          expect([busy >= before.busy, total > before.total, busy - before.busy <= total - before.total]).toEqual([
            true,
            true,
            true,
          ]);
        }
        expect(later.memory.usedMiB).toBeLessThanOrEqual(later.memory.totalMiB);
        expect(later.disk.usedMiB).toBeLessThanOrEqual(later.disk.totalMiB);
      });

      it("is refused another's name, UUID or tap, and does not disturb the other", async () => {
        const [one, two] = [newVm(), newVm()];
        await prepare(one);
        await prepare(two);
        await ports.hypervisor.create(await configOf(one));
        const config = await configOf(two);
        for (const theft of [
          { name: domainName(one.id) },
          { uuid: uuidOf(one.id) },
          { nic: { ...config.nic, tap: tapName(one.id) } },
        ])
          expect([Object.keys(theft), await codeOf(ports.hypervisor.create({ ...config, ...theft }))]).toEqual([
            Object.keys(theft),
            'not-ours',
          ]);
        expect(await ports.hypervisor.status(domainName(one.id))).toMatchObject({ state: 'running' });
        expect(await ports.hypervisor.status(domainName(two.id))).toBeNull();
      });

      it('without its disk, its kernel or its bridge is refused', async () => {
        const vm = newVm();
        await prepare(vm);
        const config = await configOf(vm);
        const { data, overlay } = await pathsOf(vm.id);
        const missing = { ...config.disks[1]!, source: { kind: 'file', path: `${data}.not` } } as const;
        expect(overlay).not.toBe(data);
        for (const lack of [
          { disks: [config.disks[0]!, missing] },
          { kernel: `${config.kernel}.not` },
          { nic: { ...config.nic, bridge: 'bgfff' } },
        ])
          expect(await codeOf(ports.hypervisor.create({ ...config, ...lack }))).toBe('hypervisor');
        expect(await ports.hypervisor.status(config.name)).toBeNull();
      });
    });

    describe('a guest', () => {
      it(
        'boots, takes its identity, runs its command once, and settles its disk',
        async () => {
          const vm = newVm();
          const name = domainName(vm.id);
          await prepare(vm);
          await ports.hypervisor.create(await configOf(vm));
          expect(await ports.store.readConsole(newVm().id, { last: 10 })).toBeNull();
          await expect.poll(() => ports.guest.ping(name), { timeout: bootDeadlineMs, interval: 20 }).toBe(true);
          const whole = (await ports.store.readConsole(vm.id, { last: 4096 }))!;
          expect([whole.from, whole.bytes.length]).toEqual([0, whole.totalBytes]);
          const part = (await ports.store.readConsole(vm.id, { from: 2, bytes: 3 }))!;
          expect(part.bytes.toString()).toBe(whole.bytes.subarray(2, 5).toString());
          const identity = {
            firstBootKind: 'cold' as const,
            mac: vm.mac,
            hostname: vm.name,
            machineId: machineId(vm.id),
            address: vm.address,
            cidr: vm.network.cidr,
            gateway: vm.network.gateway,
            neighbours: vm.neighbours,
            timeMs: Date.now(),
          };
          await ports.guest.applyIdentity(name, identity);
          await ports.guest.applyIdentity(name, identity);
          expect(await ports.guest.readLog(name, 0, 100)).toHaveLength(0);
          const argv = ['sh', '-c', 'mkdir -p out; echo done; echo done >>out/result; hostname >&2'];
          const job = { argv, env: {}, timeoutS: 60, logLimitBytes: 8 };
          expect(await ports.guest.hasJob(name)).toBe(false);
          await ports.guest.startJob(name, job);
          // Either may be first: the agent doesn't wait for the program that it starts.
          await ports.guest.startJob(name, job);
          await expect.poll(() => ports.guest.observeJob(name), { timeout: 30_000, interval: 20 }).not.toBeNull();
          const end = await ports.guest.observeJob(name);
          expect(end).toMatchObject({ kind: 'exited', exitCode: 0, signal: null, timedOut: false, stopped: false });
          const { logBytes, tail } = end as Extract<JobResult, { kind: 'exited' }>;
          expect(await ports.guest.hasJob(name)).toBe(true);
          const log = await ports.guest.readLog(name, 0, 100);
          expect(Buffer.from(log).toString().slice(0, 5)).toBe('done\n');
          const ring = await ports.guest.readLogTail(name, 0, 100);
          expect([log.length, ring.length]).toEqual([logBytes, tail?.bytes]);
          expect(log.length + ring.length).toBeLessThanOrEqual(job.logLimitBytes);
          await ports.guest.stopJob(name);
          await ports.guest.flushDataDisk(name);
          await ports.guest.flushDataDisk(name);
          await ports.guest.stopJob(name);
          const { data } = await pathsOf(vm.id);
          const { files } = await ports.diskTool.listFiles(data, ['**'], 100, never);
          expect(files.map(({ path }) => path).sort()).toEqual(['in/words', 'out/result']);
          const result = files.find(({ path }) => path === 'out/result')!;
          expect((await contentOf(ports, data, result)).toString()).toBe('done\n');
        },
        bootDeadlineMs + 60_000,
      );

      it(
        'resumes from its saved memory, boots again when it is reset, and shuts down with its disk consistent',
        async () => {
          const vm = newVm();
          const name = domainName(vm.id);
          await prepare(vm);
          const config: DomainConfig = { ...(await configOf(vm)), onReboot: 'restart' };
          await ports.hypervisor.create(config);
          const answers = () => expect.poll(() => ports.guest.ping(name), { timeout: bootDeadlineMs, interval: 20 }).toBe(true);
          await answers();
          const boot = await ports.guest.bootId(name);
          const { memory, memoryPartial } = await pathsOf(vm.id);
          expect(await ports.hypervisor.isSaved(memoryPartial)).toBe(false);
          await ports.hypervisor.save(name, memoryPartial);
          expect([await ports.hypervisor.status(name), await ports.hypervisor.isSaved(memoryPartial)]).toEqual([null, true]);
          expect(await codeOf(ports.hypervisor.save(name, memoryPartial))).toBe('hypervisor');
          await ports.store.commitMemory(vm.id);
          await ports.store.commitMemory(vm.id);
          expect(await ports.hypervisor.isSaved(memoryPartial)).toBe(false);
          expect(await ports.store.memoryBytes(vm.id)).toBeGreaterThan(2 ** 20);
          expect(await codeOf(ports.hypervisor.restore(memoryPartial, config))).toBe('hypervisor');
          await ports.hypervisor.restore(memory, config);
          expect(await ports.hypervisor.status(name)).toMatchObject({ state: 'paused' });
          expect(await codeOf(ports.hypervisor.restore(memory, config))).toBe('not-ours');
          await ports.hypervisor.resumeCpus(name);
          await answers();
          expect(await ports.guest.bootId(name)).toBe(boot);
          await ports.store.removeMemory(vm.id);
          expect([await ports.hypervisor.isSaved(memory), await ports.store.memoryBytes(vm.id)]).toEqual([false, 0]);
          await ports.hypervisor.reset(name);
          const booted = async () => {
            const now = await ports.guest.bootId(name).catch(() => boot);
            return now !== boot;
          };
          await expect.poll(booted, { timeout: bootDeadlineMs, interval: 50 }).toBe(true);
          await ports.guest.shutDown(name);
          await expect.poll(() => ports.hypervisor.status(name), { timeout: bootDeadlineMs, interval: 50 }).toBeNull();
          const { overlay, flat } = await pathsOf(vm.id);
          await ports.diskTool.flatten(
            { source: overlay, format: 'qcow2', destination: flat, limitMiB: image.virtualMiB },
            never,
          );
          const whole = { format: 'qcow2', virtualMiB: image.virtualMiB };
          expect(await ports.diskTool.inspect(flat, image.virtualMiB)).toEqual(whole);
          expect(await codeOf(ports.diskTool.inspect(flat, image.virtualMiB - 1))).toBe('image-refused');
        },
        2 * bootDeadlineMs + 60_000,
      );

      it('that has gone answers nothing', async () => {
        const name = domainName(newId('vm'));
        expect(await ports.guest.ping(name)).toBe(false);
        // One after the other: a promise that is rejected before it is awaited ends the test run.
        const asks = [
          () => ports.guest.observeJob(name),
          () => ports.guest.flushDataDisk(name),
          () => ports.guest.readLog(name, 0, 1),
        ];
        for (const ask of asks) expect(await codeOf(ask())).toMatch(/^(vm-lost|host-busy)$/);
      });
    });

    describe('a template', () => {
      it(
        'is made from an idle machine without a network, starts others like it, and is retired when it fails three times',
        async () => {
          const { templates, hypervisor, guest, diskTool: disks } = ports;
          const first = newVm();
          await prepare(first);
          const paths = await pathsOf(first.id);
          const plain = await configOf(first);
          const config: DomainConfig = {
            ...plain,
            memory: { kind: 'template', file: paths.templateMemory },
            nic: { ...plain.nic, bridge: null },
          };
          const key = await templates.computeKey(config);
          expect(await templates.find(image.id, key)).toBe('none');
          await hypervisor.create(config);
          await expect.poll(() => guest.ping(config.name), { timeout: bootDeadlineMs, interval: 20 }).toBe(true);
          await guest.quiesce(config.name);
          const parts = { disk: paths.overlay, memory: paths.templateMemory, state: paths.templateState };
          const { bytes } = await templates.save(image.id, key, config, parts);
          expect(bytes).toBeGreaterThan(0);
          expect(await hypervisor.status(config.name)).toBeNull();

          const vm = newVm();
          await prepare(vm);
          const wanted = await configOf(vm);
          expect(await templates.computeKey(wanted)).toBe(key);
          expect(await templates.computeKey({ ...wanted, memoryMiB: 512 })).not.toBe(key);
          const template = await templates.find(image.id, key);
          if (typeof template === 'string') throw new Error(`the template is ${template}`);
          await disks.copyOverlay((await pathsOf(vm.id)).overlay, template.disk, image.virtualMiB);
          await templates.startDomain(wanted, template);
          expect(await hypervisor.status(wanted.name)).toMatchObject({ state: 'running' });
          await expect.poll(() => guest.ping(wanted.name), { timeout: 60_000, interval: 20 }).toBe(true);
          await guest.applyIdentity(wanted.name, {
            firstBootKind: 'warm',
            mac: vm.mac,
            hostname: vm.name,
            machineId: machineId(vm.id),
            address: vm.address,
            cidr: vm.network.cidr,
            gateway: vm.network.gateway,
            neighbours: vm.neighbours,
            timeMs: Date.now(),
          });
          expect(await codeOf(templates.startDomain(wanted, template))).toBe('not-ours');
          expect(await hypervisor.status(wanted.name)).toMatchObject({ state: 'running' });

          const outcomes = [
            { failed: 'a' },
            { failed: 'b' },
            'started',
            { failed: 'c' },
            { failed: 'd' },
            { failed: 'e' },
          ] as const;
          const verdicts: string[] = [];
          for (const outcome of outcomes) verdicts.push(await templates.recordOutcome(template, outcome));
          expect(verdicts).toEqual(['kept', 'kept', 'kept', 'kept', 'kept', 'retired']);
          expect(await templates.find(image.id, key)).toBe('retired');
        },
        bootDeadlineMs + 60_000,
      );
    });

    describe('the repository', () => {
      it('stores a log in pieces, in any order and repeatedly', async () => {
        const url = bench.url('/log/one');
        expect(await ports.repository.appendLog(url, 0, Buffer.from('abc'), never)).toBe(3);
        expect(await ports.repository.appendLog(url, 5, Buffer.from('xyz'), never)).toBe(3);
        expect(await ports.repository.appendLog(url, 1, Buffer.from('bcd'), never)).toBe(4);
        expect(bench.log('one').toString()).toBe('abcd');
      });
    });
  });
}

/** The content of a file: the far side returns it as bytes, the fake as a stream. */
async function contentOf(
  ports: HostPorts,
  image: string,
  file: Parameters<HostPorts['diskTool']['readFile']>[1],
): Promise<Buffer> {
  const content: unknown = await ports.diskTool.readFile(image, file);
  if (Buffer.isBuffer(content)) return content;
  const chunks: Buffer[] = [];
  for await (const chunk of content as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}
