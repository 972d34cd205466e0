import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listSelected } from '../../../drivers/disk/ext4/list-files.ts';
import { readListedFile } from '../../../drivers/disk/ext4/read-file.ts';
import { run } from '../../../drivers/host/run-process.ts';
import type { DiskListing } from '../../../drivers/ports/disk-tool.ts';
import { BerthError } from '../../../model/errors.ts';
import { isOutputPath } from '../../../model/outputs/names.ts';
import { changeBytes } from '../random.ts';
import { type FuzzTarget, signatureOf, Wrong } from '../target.ts';

const imageBytes = 512 * 1024;
const budget = { blocks: 20_000, entries: 200_000, files: 200, bytes: 2 ** 20, seconds: 2 };
const readBytes = 256 * 1024;

/** Small disks with all that the reader knows: extent trees of two levels, hashed folders, links of both kinds, holes. */
export function createExt4Target(): FuzzTarget {
  const folder = mkdtempSync(join(tmpdir(), 'berth-fuzz-'));
  const path = join(folder, 'image');
  let places: number[] = [];
  let inputs = 0;
  return {
    async corpus() {
      const images = [
        await makeImage(folder, ['-b', '1024', '-I', '128']),
        await makeImage(folder, ['-b', '1024', '-I', '256', '-O', '64bit']),
      ];
      // What mkfs has written, and what is right after it: most of the image is empty.
      places = [...images[0]!.keys()].filter((at) =>
        images.some((image) => image.subarray(Math.max(0, at - 16), at + 1).some((byte) => byte !== 0)),
      );
      return images;
    },
    change(random, input) {
      const copy = Buffer.from(input);
      for (let changes = 1 + random.below(6); changes > 0; changes -= 1) changeBytes(random, copy, places);
      return copy;
    },
    async run(input) {
      writeFileSync(path, input);
      let listing: DiskListing;
      try {
        listing = listSelected(path, ['**', 'out', '!**/x*'], budget);
      } catch (error) {
        if (error instanceof BerthError && error.code === 'outputs-refused') return signatureOf(error.message);
        throw error;
      }
      inputs += 1;
      check(listing, input.length);
      // Opening files takes longer than all else: the content is read of one input in ten.
      if (inputs % 10 === 1) await readSome(path, listing);
      const reported = listing.skipped.listed.map(({ reason, detail }) => `${reason} ${signatureOf(detail)}`);
      return [...new Set(reported)].sort().join('; ') || 'read';
    },
    close: async () => rmSync(folder, { recursive: true }),
  };
}

function check({ files, skipped }: DiskListing, size: number): void {
  if (files.length > budget.files) throw new Wrong(`${files.length} files are listed`);
  if (skipped.listed.length > 100 || skipped.lost > skipped.count) throw new Wrong('the skipped files are miscounted');
  for (const file of files) {
    if (!isOutputPath(file.path)) throw new Wrong(`${JSON.stringify(file.path)} is no path of an output`);
    let end = 0;
    for (let index = 0; index < file.runs.length; index += 3) {
      const [at = 0, bytes = 0, from = 0] = file.runs.slice(index, index + 3);
      if (at < end || bytes <= 0 || at + bytes > file.sizeBytes || from < 0 || from + bytes > size)
        throw new Wrong(`a run of ${file.path} is outside`);
      end = at + bytes;
    }
  }
}

async function readSome(path: string, { files }: DiskListing): Promise<void> {
  let left = readBytes;
  for (const file of files) {
    if (left <= 0) return;
    let read = 0;
    for await (const chunk of readListedFile(path, file)) {
      read += chunk.length;
      left -= chunk.length;
      if (left <= 0) break;
    }
    if (left > 0 && read !== file.sizeBytes) throw new Wrong(`${file.path} has ${file.sizeBytes} bytes, and ${read} were read`);
  }
}

/** The same bytes each time: mkfs takes its ids and its time from here. */
async function makeImage(folder: string, options: string[]): Promise<Buffer> {
  const [tree, path] = [join(folder, 'tree'), join(folder, 'fresh')];
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(join(tree, 'out/deep/er'), { recursive: true });
  writeFileSync(join(tree, 'out/a'), 'content of a');
  writeFileSync(join(tree, 'out/deep/er/b'), 'b'.repeat(3000));
  for (let index = 0; index < 40; index += 1) writeFileSync(join(tree, `out/deep/${String(index).padStart(100, 'n')}`), '');
  const holes = openSync(join(tree, 'out/holes'), 'w');
  for (let index = 0; index < 100; index += 1) writeSync(holes, 'x', index * 8192);
  closeSync(holes);
  symlinkSync('../out/a', join(tree, 'out/link'));
  symlinkSync(`${'./'.repeat(40)}deep/er/b`, join(tree, 'out/long-link'));
  symlinkSync('deep', join(tree, 'out/to-folder'));
  await run(['mkfifo', join(tree, 'out/pipe')], { deadlineMs: 5000 });
  writeFileSync(path, '');
  truncateSync(path, imageBytes);
  const ids = ['-U', '00000000-0000-4000-8000-000000000001', '-E', 'hash_seed=00000000-0000-4000-8000-000000000002'];
  await run(['mkfs.ext4', '-q', '-F', '-m', '0', '-N', '96', ...options, ...ids, '-d', tree, path], {
    deadlineMs: 20_000,
    env: { PATH: process.env.PATH ?? '', LC_ALL: 'C', E2FSPROGS_FAKE_TIME: '1700000000' },
  });
  return readFileSync(path);
}
