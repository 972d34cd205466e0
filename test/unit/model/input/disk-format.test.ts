import { describe, expect, it } from 'vitest';
import { knownOtherFormat } from '../../../../model/input/disk-format.ts';

/** A sector that a PC's firmware would start, with other bytes in front. */
function bootable(text = '', at = 0): Buffer {
  const disk = Buffer.alloc(64 * 1024);
  disk.write('\xeb\x63\x90', 0, 'latin1');
  disk.write(text, at, 'latin1');
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}
const file = (text: string, at = 0): Buffer => {
  const bytes = Buffer.alloc(64 * 1024, 0x9c);
  bytes.write(text, at, 'latin1');
  return bytes;
};

describe('an uploaded file that is certainly no disk', () => {
  it.each<[string, Buffer, RegExp]>([
    ['gzip', file('\x1f\x8b\x08'), /gzip/],
    ['xz', file('\xfd7zXZ\0'), /xz/],
    ['zstd', file('\x28\xb5\x2f\xfd'), /zstd/],
    ['bzip2', file('BZh91AY'), /bzip2/],
    ['tar', file('ustar\u000000', 257), /tar/],
    ['zip', file('PK\x03\x04'), /zip/],
    ['an ISO image', bootable('CD001', 32_769), /ISO/],
    ['HTML', Buffer.from('\n <!DOCTYPE html><title>404</title>'), /web page/],
    ['HTML after a byte order mark', Buffer.from('\ufeff<html>'), /web page/],
    ['JSON', Buffer.from('{"message": "Not Found"}'), /text/],
    ['a text in another script', Buffer.from('не найдено\n'.repeat(100)), /text/],
    ['a pointer of Git LFS', Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'), /text/],
    ['zeroes', Buffer.alloc(64 * 1024), /empty/],
    ['nothing', Buffer.alloc(0), /no bytes/],
    ['a kernel', bootable('HdrS', 514), /kernel/],
    ['a Debian package', file('!<arch>\ndebian-binary'), /ar archive/],
    ['a program', file('\x7fELF\x02'), /program/],
    ['noise', file(''), /boot sector/],
    ['a file system without a boot sector', file('\x53\xef', 1080), /boot sector/],
    ['a VMDK', file('KDMV'), /VMDK/],
  ])('%s is named', (_, head, expected) => {
    expect(knownOtherFormat(head)).toMatch(expected);
  });

  it.each([
    ['a disk with a boot sector', bootable()],
    ['a GPT disk', bootable('EFI PART', 512)],
    ['a qcow2 disk', file('QFI\xfb\0\0\0\x03')],
  ])('%s is none', (_, head) => {
    expect(knownOtherFormat(head)).toBeNull();
  });
});
