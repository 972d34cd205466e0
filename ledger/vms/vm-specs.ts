import type { VmRef } from '../../contracts/host-calls.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { NetworkRef, VmSpec } from '../../model/vm.ts';
import { imageRef } from '../images/image-refs.ts';
import type { SigningDeps, Transaction } from '../transaction.ts';
import { type PlacedOnHost, type PlacedVm, type PlacedVms, readPlacedVm } from './placed-vms.ts';

function networkOf({ network, owner }: PlacedOnHost): NetworkRef {
  if (network === null) throw new BerthError('internal', `BUG: VMs of ${owner} were placed without a network`);
  return network;
}

/** The VMs of the same task first: their names take precedence. */
function neighboursOf({ vms, siblings }: PlacedOnHost): VmSpec['neighbours'] {
  const own = vms.flatMap(({ name, address }) => (address === null ? [] : [{ name, address }]));
  return [...own, ...siblings.filter((one) => own.every(({ name }) => name !== one.name))];
}

const withoutHost = ({ id, state }: PlacedVm): BerthError =>
  new BerthError('conflict', `VM ${id} is ${state}: it has no host, so there is nothing to make`);

function vmSpec(deps: SigningDeps, placed: PlacedOnHost, vm: PlacedVm): VmSpec {
  const host = placed.hosts.find((host) => host.id === vm.hostId);
  if (host === undefined || vm.address === null || vm.mac === null) throw withoutHost(vm);
  return {
    id: vm.id,
    owner: placed.owner,
    name: vm.name,
    generation: vm.generation,
    host: host.id,
    home: vm.homeId ?? host.id,
    image: imageRef(deps, placed.image, placed.imagePeers),
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    rootMiB: vm.rootMiB ?? placed.image.virtualMiB,
    extraDisksMiB: vm.extraDisksMiB,
    network: networkOf(placed),
    address: vm.address,
    mac: vm.mac,
    machine: vm.machine,
    onReboot: placed.standalone ? 'restart' : 'destroy',
    neighbours: neighboursOf(placed),
  };
}

/** What the saga of these VMs knows of them. Throws conflict when one of them has no host. */
export function vmRefs({ vms, image: { id, name } }: PlacedVms): VmRef[] {
  return vms.map((vm) => {
    if (vm.hostId === null || vm.address === null) throw withoutHost(vm);
    const { generation, vcpus, memoryMiB, hostId: host } = vm;
    return { id: vm.id, host, home: vm.homeId ?? host, generation, vcpus, memoryMiB, image: { id, name } };
  });
}

/** What the host of the VM for which they were read needs to make it, with fresh URLs. Throws conflict when it has no host. */
export function specOf(deps: SigningDeps, placed: PlacedOnHost, id: VmId): VmSpec {
  const vm = placed.vms.find((one) => one.id === id);
  if (vm === undefined) throw new BerthError('internal', `BUG: VM ${id} is none of those that were placed with it`);
  return vmSpec(deps, placed, vm);
}

export async function readVmSpec(deps: SigningDeps, tx: Transaction, id: VmId): Promise<VmSpec> {
  return specOf(deps, await readPlacedVm(tx, id), id);
}
