import type { HostActivities, PackVm, UnpackVm } from '../activities/host/contract.ts';
import { type CopyPass, copyJob, type MigrationJob } from '../model/migration.ts';
import { type Move, watched } from './migrate-vm.ts';

/** The steps of a cold copy, each with a look at it now and then for whoever asks how long the whole will take. */
export class CopyCourse {
  readonly #move: Move;
  readonly #passes: number;
  readonly #packs: { address: string; bytes: number }[] = [];
  readonly #begunMs = Date.now();
  #firstPassMs: number | null = null;
  #packedBytes = 0;

  /** @param packs so many hosts make one: the one that has the memory, and the home of the disks where that is another */
  constructor(move: Move, packs: number) {
    this.#move = move;
    this.#passes = packs * 3;
  }

  /** Made so far, as unpackVm wants to have them. */
  get packs(): { address: string; bytes: number }[] {
    return this.#packs;
  }

  async pack(host: HostActivities, address: string, order: PackVm): Promise<{ sinceMs: number | null }> {
    const packing = (pass: CopyPass) => this.#job(pass, this.#packs.length, this.#packedBytes + pass.totalBytes);
    const packed = await watched(this.#move, this.#look(host, packing), () => host.packVm(order));
    this.#firstPassMs ??= Date.now() - this.#begunMs;
    this.#packedBytes += packed.totalBytes;
    this.#packs.push({ address, bytes: packed.bytes });
    return packed;
  }

  async unpack(host: HostActivities, order: Omit<UnpackVm, 'packs'>): Promise<void> {
    const unpacking = (pass: CopyPass) => {
      const unpacked = this.#packs.findIndex(({ address }) => address === pass.from);
      return this.#job(pass, this.#packs.length + unpacked * 2 + (pass.kind === 'unpack' ? 1 : 0), this.#packedBytes);
    };
    await watched(this.#move, this.#look(host, unpacking), () => host.unpackVm({ ...order, packs: this.#packs }));
  }

  #look(host: HostActivities, jobOf: (pass: CopyPass) => MigrationJob): () => Promise<MigrationJob | null> {
    return async () => {
      const pass = await host.observeCopy(this.#move.vmId);
      return pass === null ? null : jobOf(pass);
    };
  }

  #job(pass: CopyPass, endedPasses: number, totalBytes: number): MigrationJob {
    const elapsedMs = Date.now() - this.#begunMs;
    return copyJob({ totalBytes, passes: this.#passes, endedPasses, firstPassMs: this.#firstPassMs, elapsedMs }, pass);
  }
}
