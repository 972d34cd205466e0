import type { HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { StoredDisk, StoreImage } from './contract.ts';
import { domainName } from './names.ts';

/** Where an uploaded disk waits until it was looked at and written anew. */
const uploaded = 'disk';

/** Fetches an uploaded disk and looks at it: nothing but `inspect` opens it before it has passed. */
export async function importDisk(
  { store, inputs, disks }: HostPorts,
  { vm, sizeMiB }: StoreImage,
  signal: AbortSignal,
): Promise<void> {
  const folder = await store.emptyInputs(vm.id);
  const { url, sizeBytes, sha256 } = vm.image.parts.disk;
  const destination = `${folder}/${uploaded}`;
  const limits = { limitBytes: sizeBytes, limitSeconds: 3600, allowInternal: false };
  await inputs.fetch({ url, source: 'repository', sizeBytes, sha256, destination, ...limits }, signal);
  await disks.inspect(destination, sizeMiB);
}

/**
 * One flat disk of what a build left, then to the repository. The flat disk stays until the VM's folder goes, so that a
 * repeat only has to send it.
 */
export async function storeImage(
  ports: HostPorts,
  order: StoreImage,
  record: VmRecord,
  signal: AbortSignal,
): Promise<StoredDisk> {
  const { store, disks, repository } = ports;
  const { flat } = store.paths(order.vm.id);
  if (!(await disks.exists(flat))) {
    const { from, format } = await sourceOf(ports, order, record);
    await disks.flatten({ from, format, to: flat, limitMiB: order.sizeMiB }, signal);
  }
  const { virtualMiB } = await disks.inspect(flat, order.sizeMiB);
  const { sizeBytes, content } = await disks.readWhole(flat);
  const stored = await repository.storeOutput(order.uploadUrl, 'disk', sizeBytes, content, signal);
  return { ...stored, virtualMiB };
}

/** The disk that the build wrote; a guest's only once it has shut down. */
async function sourceOf(
  { store, hypervisor, disks }: HostPorts,
  { vm, from, sizeMiB }: StoreImage,
  record: VmRecord,
): Promise<{ from: string; format: 'qcow2' | 'raw' }> {
  const paths = store.paths(vm.id);
  if (from === 'disk') {
    const path = `${paths.inputs}/${uploaded}`;
    return { from: path, format: (await disks.inspect(path, sizeMiB)).format };
  }
  if (!record.settled || (await hypervisor.status(domainName(vm.id))) !== null)
    throw new BerthError('conflict', `taking the image out of ${vm.id}: its guest has not shut down`);
  return from === 'suite' ? { from: paths.data, format: 'raw' } : { from: paths.overlay, format: 'qcow2' };
}
