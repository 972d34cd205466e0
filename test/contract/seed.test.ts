import { beforeEach, describe, expect, it } from 'vitest';
import { createHostActivities } from '../../activities/host/index.ts';
import type { HostActivities } from '../../contracts/host.ts';
import { createFakeHost, type FakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import type { VmSpec } from '../../model/vm.ts';
import { newAttempt } from './attempt.ts';
import { imageOf, requestsOf, vmOf } from './requests.ts';

let host: FakeHost;
let activities: HostActivities;
let vm: VmSpec;
let requests: ReturnType<typeof requestsOf>;
beforeEach(async () => {
  const repository = createFakeRepository();
  host = createFakeHost({ id: 'host1', repository });
  activities = createHostActivities(host.ports);
  vm = vmOf({ ...imageOf(repository), cloudInit: true });
  requests = requestsOf(repository, vm);
  await run(activities.stageIn, requests.stageIn);
});

const run = <A extends unknown[], R>(act: (...args: A) => Promise<R>, ...args: A): Promise<R> => newAttempt().run(act, ...args);
const seedOf = () => host.disks.get(host.ports.store.paths(vm.id).seed);

describe('the seed of an image with cloud-init', () => {
  it('is read at the first boot, and is removed before any user can reach the guest', async () => {
    expect((await run(activities.ensureRunning, vm)).boot).toEqual({ kind: 'cold', why: 'cloud-init' });
    const domain = host.domains.get(vm.id)!;
    expect(domain.seedRead).toMatchObject({ hostname: vm.name, address: vm.address, mac: vm.mac });
    expect([domain.config.cdrom, seedOf(), domain.identity?.firstBootKind]).toEqual([{ iso: null }, undefined, 'cold']);
  });

  it('is not in the drive of a later boot', async () => {
    await run(activities.ensureRunning, vm);
    host.crashDomain(vm.id);
    await run(activities.ensureRunning, vm);
    expect(host.domains.get(vm.id)).toMatchObject({ config: { cdrom: { iso: null } }, seedRead: null });
    expect(seedOf()).toBeUndefined();
  });

  const parts: [keyof HostPorts, string][] = [
    ['guest', 'writeSeed'],
    ['hypervisor', 'create'],
    ['guest', 'awaitCloudInit'],
    ['hypervisor', 'eject'],
    ['guest', 'applyIdentity'],
  ];
  it.each(parts.flatMap(([port, name]) => ['before', 'after'].map((when) => ({ port, name, when }))))(
    'survives a kill $when $name',
    async ({ port, name, when }) => {
      const ports = host.ports[port] as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
      const real = ports[name]!;
      ports[name] = async (...args) => {
        if (when === 'after') await real(...args);
        throw new Error('killed');
      };
      await expect(run(activities.ensureRunning, vm)).rejects.toThrow('killed');
      ports[name] = real;
      await run(activities.ensureRunning, vm);
      expect(host.domains.get(vm.id)).toMatchObject({ seedRead: { hostname: vm.name }, config: { cdrom: { iso: null } } });
      expect(seedOf()).toBeUndefined();
      await run(activities.removeVm, vm.id, 1);
      expect(host.leftovers()).toEqual([]);
    },
  );
});

describe('further disks', () => {
  it('are made empty, opened by the guest, and go with the VM', async () => {
    const more = { ...vmOf(vm.image), extraDisksMiB: [16, 32] };
    await run(activities.stageIn, { ...requests.stageIn, vm: more });
    await run(activities.stageIn, { ...requests.stageIn, vm: more });
    await run(activities.ensureRunning, more);
    const { disks } = host.domains.get(more.id)!.config;
    const sizes = disks.map(({ target, source }) => [target, (host.disks.get(source.path) as { sizeMiB?: number }).sizeMiB]);
    expect(sizes).toEqual([
      ['vda', undefined],
      ['vdb', more.diskMiB],
      ['vdc', 16],
      ['vdd', 32],
    ]);
    await run(activities.removeVm, more.id, 1);
    expect([...host.disks.keys()].filter((path) => path.includes(more.id))).toEqual([]);
  });

  it('prevent a start from a template, which has none', async () => {
    const more = { ...vmOf({ ...vm.image, cloudInit: false }), extraDisksMiB: [16] };
    await run(activities.stageIn, { ...requests.stageIn, vm: more });
    expect((await run(activities.ensureRunning, more)).boot).toEqual({ kind: 'cold', why: 'extra-disks' });
  });
});
