import type { StoredDisk, StoreImage } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { domainName } from '../vm/domain-names.ts';

/** Where an uploaded disk waits until it was looked at and written anew. */
const uploadedName = 'disk';

/** Fetches an uploaded disk and looks at it: nothing but `inspect` opens it before it has passed. */
export async function importDisk(
  { store, inputFetcher: inputs, diskTool: disks }: HostPorts,
  { vm, sizeMiB }: StoreImage,
  signal: AbortSignal,
): Promise<void> {
  const folder = await store.resetInputs(vm.id);
  const { url, sizeBytes, sha256 } = vm.image.parts.disk;
  const destination = `${folder}/${uploadedName}`;
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
  request: StoreImage,
  record: VmRecord,
  signal: AbortSignal,
): Promise<StoredDisk> {
  const { store, diskTool: disks, repository } = ports;
  const { flat } = store.paths(request.vm.id);
  if (!(await disks.exists(flat))) {
    const { from, format } = await sourceOf(ports, request, record);
    await disks.flatten({ source: from, format, destination: flat, limitMiB: request.sizeMiB }, signal);
  }
  const { virtualMiB } = await disks.inspect(flat, request.sizeMiB);
  const { sizeBytes, content } = await disks.readDisk(flat);
  const stored = await repository.storeOutput(request.uploadUrl, 'disk', sizeBytes, content, signal);
  return { ...stored, virtualMiB };
}

/** The disk that the build wrote; a guest's only once it has shut down. */
async function sourceOf(
  { store, hypervisor, diskTool: disks }: HostPorts,
  { vm, from, sizeMiB }: StoreImage,
  record: VmRecord,
): Promise<{ from: string; format: 'qcow2' | 'raw' }> {
  const paths = store.paths(vm.id);
  if (from === 'disk') {
    const path = `${paths.inputs}/${uploadedName}`;
    return { from: path, format: (await disks.inspect(path, sizeMiB)).format };
  }
  if (!record.flushed || (await hypervisor.status(domainName(vm.id))) !== null)
    throw new BerthError('conflict', `taking the image out of ${vm.id}: its guest has not shut down`);
  return from === 'suite' ? { from: paths.data, format: 'raw' } : { from: paths.overlay, format: 'qcow2' };
}
