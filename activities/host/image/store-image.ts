import type { StoredDisk, StoreImage } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { domainName } from '../vm/domain-names.ts';

/** The file that an uploaded disk is fetched to, in the folder of inputs, until it is inspected and flattened. */
const uploadedName = 'disk';

/** Fetches an uploaded disk and inspects it: only `inspect` opens it before it has passed. */
export async function importDisk(
  { store, inputFetcher, diskTool }: HostPorts,
  { vm, sizeMiB }: StoreImage,
  signal: AbortSignal,
): Promise<void> {
  const folder = await store.resetInputs(vm.id);
  const { url, sizeBytes, sha256 } = vm.image.parts.disk;
  const destination = `${folder}/${uploadedName}`;
  const limits = { limitBytes: sizeBytes, limitSeconds: 3600, allowInternal: false };
  await inputFetcher.fetch({ url, source: 'repository', sizeBytes, sha256, destination, ...limits }, signal);
  await diskTool.inspect(destination, sizeMiB);
}

/**
 * Flattens the disk that a build wrote, and uploads it to the repository. The flat disk remains until the VM's folder is
 * removed, so that a retry only uploads it.
 */
export async function storeImage(
  ports: HostPorts,
  request: StoreImage,
  record: VmRecord,
  signal: AbortSignal,
): Promise<StoredDisk> {
  const { store, diskTool, repository } = ports;
  const { flat } = store.paths(request.vm.id);
  if (!(await diskTool.exists(flat))) {
    const { from, format } = await sourceOf(ports, request, record);
    await diskTool.flatten({ source: from, format, destination: flat, limitMiB: request.sizeMiB }, signal);
  }
  const { virtualMiB } = await diskTool.inspect(flat, request.sizeMiB);
  const { sizeBytes, content } = await diskTool.readDisk(flat);
  const stored = await repository.storeOutput(request.uploadUrl, 'disk', sizeBytes, content, signal);
  return { ...stored, virtualMiB };
}

/** The disk that the build wrote; for a guest's disk the guest must have shut down. */
async function sourceOf(
  { store, hypervisor, diskTool }: HostPorts,
  { vm, from, sizeMiB }: StoreImage,
  record: VmRecord,
): Promise<{ from: string; format: 'qcow2' | 'raw' }> {
  const paths = store.paths(vm.id);
  if (from === 'disk') {
    const path = `${paths.inputs}/${uploadedName}`;
    return { from: path, format: (await diskTool.inspect(path, sizeMiB)).format };
  }
  if (!record.flushed || (await hypervisor.status(domainName(vm.id))) !== null)
    throw new BerthError('conflict', `storing the image that ${vm.id} built: its guest has not shut down`);
  return from === 'suite' ? { from: paths.data, format: 'raw' } : { from: paths.overlay, format: 'qcow2' };
}
