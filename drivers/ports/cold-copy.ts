import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import type { VmId } from '../../model/ids.ts';
import type { ColdCopyPass } from '../../model/migration.ts';

/** Transfers a VM that doesn't run, as files, from host to host. */
export interface ColdCopy {
  /** Publishes, for the host that packs for this one, the chunks that this host still has of a previous version. */
  offerCachedChunks(vmId: VmId): Promise<{ chunks: number }>;
  /** Makes the pack, without the chunks that the host at `offer` has published. */
  pack(
    vmId: VmId,
    files: readonly ColdCopyFile[],
    offer: { address: string; chunks: number } | null,
  ): Promise<{ bytes: number; totalBytes: number }>;
  /** The progress of the active pack, fetch or unpack of a VM; null where none is active. */
  observePass(vmId: VmId): Promise<ColdCopyPass | null>;
  /** Fetches another host's pack and makes the VM's files from it; `disk-full`. */
  unpack(vmId: VmId, pack: { address: string; bytes: number }): Promise<void>;
  /** Keeps files of a VM that was migrated to another host as its previous version here, within a budget. */
  keepPreviousVersion(vmId: VmId, files: readonly ColdCopyFile[]): Promise<void>;
  /** Removes the pack and the published chunks. */
  removeTransferFiles(vmId: VmId): Promise<void>;
}
