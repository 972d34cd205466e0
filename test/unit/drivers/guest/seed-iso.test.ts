import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { cloudSeed } from '../../../../drivers/guest/cloud-seed.ts';
import { writeIso } from '../../../../drivers/guest/seed-iso.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-seed-'));
afterAll(() => rmSync(folder, { recursive: true }));

const files = { 'meta-data': 'one', 'user-data': 'x'.repeat(5000), 'network-config': '' };

test('a disc has its files complete, by their names, and a label that blkid finds', async () => {
  const path = join(folder, 'seed.iso');
  await writeIso(path, 'cidata', { 'meta-data': 'of an attempt before' });
  await writeIso(path, 'cidata', files);
  const said = execFileSync('blkid', ['-p', '-o', 'export', path], { encoding: 'utf8' });
  expect(said).toMatch(/^LABEL=cidata$/m);
  expect(said).toMatch(/^TYPE=iso9660$/m);
  const out = join(folder, 'out');
  execFileSync('xorriso', ['-osirrox', 'on', '-indev', path, '-extract', '/', out], { stdio: 'ignore' });
  const found = readdirSync(out).map((name) => [name, readFileSync(join(out, name), 'utf8')]);
  expect(Object.fromEntries(found)).toEqual(files);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(folder).sort()).toEqual(['out', 'seed.iso']);
});

test('a disc refuses names that lead out of its folder', async () => {
  await expect(writeIso(join(folder, 'no.iso'), 'cidata', { 'a/b': '' })).rejects.toThrow('BUG');
  expect(readdirSync(folder)).not.toContain('no.iso');
});

test('a seed has the guest’s name and address, whatever characters the name has', () => {
  const identity = {
    firstBootKind: null,
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
