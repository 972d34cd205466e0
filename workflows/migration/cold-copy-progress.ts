import type { HostActivities } from '../../contracts/host.ts';
import type { PackColdCopy, UnpackColdCopy } from '../../contracts/host-migration.ts';
import { type ColdCopyPass, coldCopyJob, type MigrationJob } from '../../model/migration.ts';
import type { MigrationRun } from './migration-run.ts';
import { withProgressReports } from './progress-reports.ts';

/** The passes of a cold copy, with progress reports over the whole of it. */
export class ColdCopyProgress {
  readonly #run: MigrationRun;
  readonly #passes: number;
  readonly #packs: { address: string; bytes: number }[] = [];
  readonly #startedMs = Date.now();
  #firstPassMs: number | null = null;
  #packedBytes = 0;

  /** @param packs number of packs: of the host that has the memory, and of the home of the disks where that is another one */
  constructor(run: MigrationRun, packs: number) {
    this.#run = run;
    this.#passes = packs * 3;
  }

  /** The packs made so far, for unpackColdCopy. */
  get packs(): { address: string; bytes: number }[] {
    return this.#packs;
  }

  async pack(host: HostActivities, address: string, order: PackColdCopy): Promise<{ sinceMs: number | null }> {
    const packing = (pass: ColdCopyPass) => this.#job(pass, this.#packs.length, this.#packedBytes + pass.totalBytes);
    const packed = await withProgressReports(this.#run, this.#observe(host, packing), () => host.packColdCopy(order));
    this.#firstPassMs ??= Date.now() - this.#startedMs;
    this.#packedBytes += packed.totalBytes;
    this.#packs.push({ address, bytes: packed.bytes });
    return packed;
  }

  async unpack(host: HostActivities, order: Omit<UnpackColdCopy, 'packs'>): Promise<void> {
    const unpacking = (pass: ColdCopyPass) => {
      const unpacked = this.#packs.findIndex(({ address }) => address === pass.from);
      return this.#job(pass, this.#packs.length + unpacked * 2 + (pass.kind === 'unpack' ? 1 : 0), this.#packedBytes);
    };
    await withProgressReports(this.#run, this.#observe(host, unpacking), () =>
      host.unpackColdCopy({ ...order, packs: this.#packs }),
    );
  }

  #observe(host: HostActivities, jobOf: (pass: ColdCopyPass) => MigrationJob): () => Promise<MigrationJob | null> {
    return async () => {
      const pass = await host.observeColdCopy(this.#run.vmId);
      return pass === null ? null : jobOf(pass);
    };
  }

  #job(pass: ColdCopyPass, endedPasses: number, totalBytes: number): MigrationJob {
    const elapsedMs = Date.now() - this.#startedMs;
    return coldCopyJob({ totalBytes, passes: this.#passes, endedPasses, firstPassMs: this.#firstPassMs, elapsedMs }, pass);
  }
}
