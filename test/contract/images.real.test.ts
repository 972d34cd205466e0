import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../model/ids.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';

let hosts: RealHost[];
let stop: () => Promise<void>;

beforeAll(async () => {
  const opened = await openRealHosts(2);
  stop = opened.stop;
  hosts = opened.hosts;
});
afterAll(() => stop?.());

describe('an image', () => {
  it('comes from a peer over NFS where one has it, and from the repository where none does', async () => {
    const [one, two] = hosts as [RealHost, RealHost];
    const image = one.image();
    expect((await one.activities().ensureImage(image)).from).toBe('repository');
    // Only the peer can be the source: these URLs have no server.
    const nowhere = two.url('/files/nowhere');
    const parts = {
      disk: { ...image.parts.disk, url: nowhere },
      kernel: { ...image.parts.kernel!, url: nowhere },
      initrd: { ...image.parts.initrd!, url: nowhere },
    };
    const atPeer = { ...image, parts, peers: [one.host.address] };
    expect((await two.activities().ensureImage(atPeer)).from).toBe('peer');
    expect(await two.ports().imageCache.list()).toEqual([image.id]);
    const digest = (await two.on(['sha256sum', `/var/lib/berth/images/${image.id}/disk.qcow2`])).split(' ')[0];
    expect(digest).toBe(image.parts.disk.sha256);
  });

  it('that is damaged at the peer is fetched from the repository instead', async () => {
    const [one, two] = hosts as [RealHost, RealHost];
    const image = { ...two.image(), id: newId('image') };
    await one.activities().ensureImage({ ...one.image(), id: image.id });
    await one.on(['sh', '-c', `printf x | dd of=/var/lib/berth/images/${image.id}/kernel conv=notrunc bs=1 seek=5000`]);
    expect((await two.activities().ensureImage({ ...image, peers: [one.host.address] })).from).toBe('repository');
  });
});
