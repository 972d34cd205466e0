import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import type { VmId } from '../../model/ids.ts';
import type { ColdCopyPass } from '../../model/migration.ts';

/** A VM that doesn't run, as files that go from host to host. */
export interface ColdCopy {
  /** Writes down, for whoever packs for this host, what it still has of an earlier version. */
  offerCachedChunks(vmId: VmId): Promise<{ chunks: number }>;
  /** Makes the pack: what `offer` names is left out. */
  pack(
    vmId: VmId,
    files: readonly ColdCopyFile[],
    offer: { address: string; chunks: number } | null,
  ): Promise<{ bytes: number; totalBytes: number }>;
  /** How far what is just being packed, fetched or unpacked of a VM is; null where nothing is. */
  observePass(vmId: VmId): Promise<ColdCopyPass | null>;
  /** Fetches another host's pack and makes its files here, in their places; `disk-full`. */
  unpack(vmId: VmId, pack: { address: string; bytes: number }): Promise<void>;
  /** Puts files of a VM that went elsewhere aside as an earlier version, within a budget. */
  keepPreviousVersion(vmId: VmId, files: readonly ColdCopyFile[]): Promise<void>;
  /** Removes pack and offer. */
  removeTransferFiles(vmId: VmId): Promise<void>;
  /** Removes all of that. */
  removeAll(vmId: VmId): Promise<void>;
}
