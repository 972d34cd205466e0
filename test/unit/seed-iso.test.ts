import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { cloudSeed } from '../../drivers/cloud-seed.ts';
import { isoImage } from '../../drivers/seed-iso.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-seed-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** What a reader of ECMA-119 finds in the root directory. */
function filesOf(image: Buffer): Record<string, string> {
  const root = image.subarray(16 * 2048 + 156);
  const sector = root.readUInt32LE(2);
  expect(root.readUInt32BE(6)).toBe(sector);
  const directory = image.subarray(sector * 2048, sector * 2048 + root.readUInt32LE(10));
  const found: Record<string, string> = {};
  for (let at = 0; directory[at]! > 0; at += directory[at]!) {
    const record = directory.subarray(at, at + directory[at]!);
    const name = record.subarray(33, 33 + record[32]!).toString();
    const from = record.readUInt32LE(2) * 2048;
    if (record[25] === 0) found[name] = image.subarray(from, from + record.readUInt32LE(10)).toString();
  }
  return found;
}

describe('a disc of files', () => {
  const files = { 'meta-data': 'one', 'user-data': 'x'.repeat(5000), 'network-config': '' };

  test('has them whole, each beginning at a sector', () => {
    const image = isoImage('cidata', files);
    expect(image.length % 2048).toBe(0);
    expect(filesOf(image)).toEqual({ 'META-DATA;1': 'one', 'USER-DATA;1': 'x'.repeat(5000), 'NETWORK-CONFIG;1': '' });
    expect(image.readUInt32LE(16 * 2048 + 80) * 2048).toBe(image.length);
  });

  test('is what blkid takes for one, with its label', () => {
    const path = join(folder, 'seed.iso');
    writeFileSync(path, isoImage('cidata', files));
    const said = execFileSync('blkid', ['-p', '-o', 'export', path], { encoding: 'utf8' });
    expect(said).toMatch(/^LABEL=cidata$/m);
    expect(said).toMatch(/^TYPE=iso9660$/m);
  });

  test('takes no names that lead anywhere', () => {
    expect(() => isoImage('cidata', { 'a/b': '' })).toThrow('BUG');
  });
});

test('a seed says who the guest is and where, whatever is in its name', () => {
  const identity = {
    birth: null,
    mac: '52:54:00:00:00:07',
    hostname: 'web: "1"',
    machineId: 'a'.repeat(32),
    address: '10.128.0.7',
    cidr: '10.128.0.0/22',
    gateway: '10.128.0.1',
    neighbours: [],
    timeMs: 0,
  };
  const seed = cloudSeed(identity, ['192.0.2.53']);
  expect(JSON.parse(seed['meta-data']!)).toEqual({ 'instance-id': 'a'.repeat(32), 'local-hostname': 'web: "1"' });
  expect(seed['user-data']!.split('\n')[0]).toBe('#cloud-config');
  expect(JSON.parse(seed['network-config']!).ethernets.berth0).toEqual({
    match: { macaddress: '52:54:00:00:00:07' },
    addresses: ['10.128.0.7/22'],
    routes: [{ to: '0.0.0.0/0', via: '10.128.0.1' }],
    nameservers: { addresses: ['192.0.2.53'] },
  });
});
