import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readDiskHeader } from '../../../../drivers/disk/disk-header.ts';
import { openDiskTool } from '../../../../drivers/disk/disk-tool.ts';
import { BerthError } from '../../../../model/errors.ts';

const mib = 2 ** 20;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-disks-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => join(folder, name);
const create = (name: string, ...more: string[]): Buffer => {
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, at(name), '8M']);
  return readFileSync(at(name));
};

const inspectBytes = (bytes: Buffer, limitMiB = 64, sizeBytes = bytes.length) =>
  readDiskHeader(async (offset, length) => bytes.subarray(offset, offset + length), sizeBytes, limitMiB * mib);

async function why(bytes: Buffer, limitMiB?: number): Promise<string> {
  try {
    const { format, virtualBytes } = await inspectBytes(bytes, limitMiB);
    return `taken: ${format} ${virtualBytes}`;
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'image-refused') throw error;
    return error.message.replace('Taking an uploaded disk: ', '');
  }
}

/** A copy with some bytes changed. */
function changed(bytes: Buffer, offset: number, value: number | bigint, width: 4 | 8): Buffer {
  const copy = Buffer.from(bytes);
  if (width === 4) copy.writeUInt32BE(Number(value), offset);
  else copy.writeBigUInt64BE(BigInt(value), offset);
  return copy;
}

/** Raw, with a boot sector. */
function rawDisk(bytes: number): Buffer {
  const disk = Buffer.alloc(bytes, 7);
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}

describe('an uploaded disk', () => {
  it('is accepted when it is a complete qcow2, of any version and cluster size, or raw sectors', async () => {
    for (const [index, options] of [
      [],
      ['-o', 'compat=0.10'],
      ['-o', 'cluster_size=512'],
      ['-o', 'extended_l2=on'],
      ['-o', 'compression_type=zstd'],
    ].entries())
      expect(await inspectBytes(create(`fine-${index}`, ...options))).toEqual({ format: 'qcow2', virtualBytes: 8 * mib });
    expect(await inspectBytes(rawDisk(4096))).toEqual({ format: 'raw', virtualBytes: 4096 });
  });

  it('is refused when it has a backing file, on the host or anywhere', async () => {
    execFileSync('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', '/etc/shadow', '-F', 'raw', at('backed'), '8M']);
    expect(await why(readFileSync(at('backed')))).toMatch(/backing file/);
    const fine = create('backless');
    expect(await why(changed(fine, 8, 512, 8))).toMatch(/backing file/);
    expect(await why(changed(fine, 16, 11, 4))).toMatch(/backing file/);
  });

  it('is refused when its data is in another file', async () => {
    const raw = at('outside.raw');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `data_file=${raw},data_file_raw=on`, at('outside'), '8M']);
    expect(await why(readFileSync(at('outside')))).toMatch(/external file/);
    const fine = create('inside');
    expect(await why(changed(fine, 72, 4, 8))).toMatch(/external file/);
    expect(await why(changed(fine, 112, 0x44415441, 4))).toMatch(/external file/);
  });

  it('is refused when its virtual size exceeds that of the recipe', async () => {
    const fine = create('size');
    expect(await why(fine, 7)).toMatch(/virtual size is 8388608/);
    expect(await why(changed(fine, 24, 8n * 2n ** 60n, 8))).toMatch(/virtual size is 9223372036854775808 bytes/);
    expect(await why(changed(fine, 24, 2n ** 50n, 8))).toMatch(/L1 table is too small/);
    expect(await why(rawDisk(65 * mib))).toMatch(/virtual size/);
  });

  it('is refused when it is encrypted, has snapshots, is dirty or corrupt', async () => {
    const fine = create('marks');
    expect(await why(changed(fine, 32, 2, 4))).toMatch(/encrypted/);
    expect(await why(changed(fine, 60, 1, 4))).toMatch(/snapshots/);
    expect(await why(changed(fine, 72, 1, 8))).toMatch(/not closed/);
    expect(await why(changed(fine, 72, 2, 8))).toMatch(/corrupt/);
    expect(await why(changed(fine, 72, 1n << 40n, 8))).toMatch(/not known/);
    execFileSync('qemu-img', ['snapshot', '-c', 'one', at('marks')]);
    expect(await why(readFileSync(at('marks')))).toMatch(/1 snapshots/);
  });

  it('is refused when its header is malformed', async () => {
    const fine = create('bad');
    for (const [offset, value, width] of [
      [4, 9, 4],
      [20, 63, 4],
      [20, 0, 4],
      [36, 0xffffffff, 4],
      [40, 2n ** 60n, 8],
      [40, 12345n, 8],
      [48, 2n ** 63n, 8],
      [56, 0xffff, 4],
      [56, 0, 4],
      [96, 99, 4],
      [100, 3, 4],
      [100, 1_000_000, 4],
    ] as const)
      expect([offset, await why(changed(fine, offset, value, width))]).toEqual([offset, expect.not.stringMatching(/^taken/)]);
    expect(await why(fine.subarray(0, 50))).toMatch(/cut off/);
    expect(await why(Buffer.alloc(0))).toMatch(/no bytes/);
    expect(await why(rawDisk(1000))).toMatch(/whole sectors/);
  });

  it('is refused in a format that QEMU knows and Berth does not accept', async () => {
    for (const format of ['vmdk', 'vdi', 'vhdx', 'vpc', 'qed', 'parallels', 'qcow']) {
      execFileSync('qemu-img', ['create', '-q', '-f', format, at(`other.${format}`), '8M']);
      const bytes = readFileSync(at(`other.${format}`));
      truncateSync(at(`other.${format}`), Math.ceil(statSync(at(`other.${format}`)).size / 512) * 512);
      expect([format, await why(bytes)]).toEqual([format, expect.stringMatching(/^this is /)]);
    }
    writeFileSync(at('descriptor'), '# Disk DescriptorFile\nversion=1\n'.padEnd(512));
    expect(await why(readFileSync(at('descriptor')))).toMatch(/VMDK/);
  });

  it('is accepted within its bounds or refused, whatever its bytes are, and nothing else happens', async () => {
    const fine = create('fuzzed');
    const change = fc.tuple(fc.nat(120), fc.nat(255));
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (changes) => {
        const copy = Buffer.from(fine);
        for (const [offset, value] of changes) copy[offset] = value;
        const said = await why(copy);
        const taken = /^taken: (qcow2|raw) (\d+)$/.exec(said);
        if (taken !== null) {
          expect(Number(taken[2])).toBeLessThanOrEqual(64 * mib);
          if (taken[1] === 'qcow2')
            expect(copy.subarray(8, 20).equals(Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe(true);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

describe('before it has passed', () => {
  const tool = openDiskTool();
  let path: string;
  let marker: string;
  beforeAll(() => {
    // All programs of QEMU that open a disk are started by this one.
    const bin = at('bin');
    marker = at('started');
    mkdirSync(bin);
    writeFileSync(join(bin, 'prlimit'), `#!/bin/sh\necho "$@" >>${marker}\nPATH=${process.env.PATH} exec prlimit "$@"\n`, {
      mode: 0o755,
    });
    path = process.env.PATH ?? '';
    process.env.PATH = `${bin}:${path}`;
  });
  afterAll(() => {
    process.env.PATH = path;
  });

  it('no program of QEMU opens a disk that refers to a file of the host', async () => {
    const hostile: Record<string, Buffer> = {
      backed: readFileSync(at('backed')),
      outside: readFileSync(at('outside')),
      huge: changed(create('plain'), 24, 8n * 2n ** 60n, 8),
      malformed: changed(create('plain'), 40, 12345n, 8),
    };
    for (const [name, bytes] of Object.entries(hostile)) {
      writeFileSync(at(name), bytes);
      await expect(tool.inspect(at(name), 64)).rejects.toMatchObject({ code: 'image-refused' });
      expect([name, existsSync(marker)]).toEqual([name, false]);
    }
    expect(await tool.inspect(at('fine-0'), 64)).toEqual({ format: 'qcow2', virtualMiB: 8 });
    expect(readFileSync(marker, 'utf8')).toContain('qemu-img info -f qcow2');
  });

  it('no format is guessed from the content of a raw disk, and the converted disk has all of the content and needs no other file', async () => {
    const raw = Buffer.alloc(4 * mib, 0);
    raw.write('not a qcow2 at all', 512);
    writeFileSync(at('raw'), raw);
    writeFileSync(at('flat.qcow2.0123.partial'), 'of an attempt that was killed');
    const never = new AbortController().signal;
    await tool.flatten({ source: at('raw'), format: 'raw', destination: at('flat.qcow2'), limitMiB: 64 }, never);
    expect(await tool.inspect(at('flat.qcow2'), 64)).toEqual({ format: 'qcow2', virtualMiB: 4 });
    expect(existsSync(at('flat.qcow2.0123.partial'))).toBe(false);
    execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', at('raw'), at('flat.qcow2')]);
    expect(readFileSync(marker, 'utf8')).toContain('qemu-img convert -q -f raw -O qcow2');
  });

  it('the conversion ends at the given bounds', async () => {
    writeFileSync(at('noise'), randomBytes(30 * mib));
    const never = new AbortController().signal;
    const order = { source: at('noise'), format: 'raw', destination: at('too-much.qcow2'), limitMiB: 8 } as const;
    await expect(tool.flatten(order, never)).rejects.toMatchObject({ code: 'image-refused' });
    expect(existsSync(at('too-much.qcow2'))).toBe(false);
  });
});
