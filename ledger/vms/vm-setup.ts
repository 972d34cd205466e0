import type { CustomizeVm } from '../../contracts/host.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { StoredVmRequest, stagedFile } from '../../model/vm-request.ts';
import { fileUrl } from '../files/urls.ts';
import type { LedgerDeps } from '../transaction.ts';
import { readVmSpec } from './vm-specs.ts';

/**
 * The arguments with which the VM's host sets up the guest, with fresh URLs. Throws conflict when the VM has no host, and
 * input-unavailable when one of its files was deleted.
 */
export async function issueVmSetup(deps: LedgerDeps, id: VmId): Promise<CustomizeVm> {
  const row = await deps.ledger.vm.findUniqueOrThrow({ where: { id }, select: { order: true } });
  const request = StoredVmRequest.parse(row.order);
  const files = await deps.ledger.file.findMany({
    where: { id: { in: request.files.map(({ file }) => file) }, state: 'ready' },
    select: { id: true, sha256: true, sizeBytes: true },
  });
  const byId = new Map(files.map((file) => [file.id, file]));
  return {
    vm: await readVmSpec(deps, deps.ledger, id),
    user: request.user ?? null,
    files: request.files.map(({ path, file, mode }, index) => {
      const found = byId.get(file);
      if (found === undefined) throw new BerthError('input-unavailable', `The file ${file} for ${path} was deleted since`);
      const { sha256, sizeBytes } = found;
      const input = {
        path: stagedFile(index),
        url: fileUrl(deps, file),
        source: 'repository',
        sizeBytes: Number(sizeBytes),
        sha256,
      } as const;
      return { path, mode, input };
    }),
    firstBoot: request.firstBoot,
    swapMiB: request.swapMiB,
  };
}

/** The guest is set up as requested, and its sshd has this public key. */
export async function recordVmCustomized(deps: LedgerDeps, id: VmId, hostKey: string): Promise<void> {
  await deps.ledger.vm.update({ where: { id }, data: { hostKey }, select: { id: true } });
}
