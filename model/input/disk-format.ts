const startsWith = (head: Buffer, magic: string, at = 0): boolean =>
  head.subarray(at, at + magic.length).equals(Buffer.from(magic, 'latin1'));

/** "QFI\xfb". */
export const qcow2Magic = 0x514649fb;

/** Disks that QEMU knows and Berth refuses, by the first bytes of their files. No raw disk begins with them. */
const otherDisks: readonly [string, (head: Buffer) => boolean][] = [
  ['a VMDK disk', (head) => startsWith(head, 'KDMV') || startsWith(head, 'COWD') || startsWith(head, '# Disk DescriptorFile')],
  ['a VDI disk', (head) => head.length >= 68 && head.readUInt32LE(64) === 0xbeda107f],
  ['a VHDX disk', (head) => startsWith(head, 'vhdxfile')],
  ['a VHD disk', (head) => startsWith(head, 'conectix')],
  ['a QED disk', (head) => startsWith(head, 'QED\0')],
  ['an encrypted (LUKS) disk', (head) => startsWith(head, 'LUKS\u00ba\u00be')],
  ['a Parallels disk', (head) => startsWith(head, 'WithoutFreeSpace') || startsWith(head, 'WithouFreSpacExt')],
  ['a Bochs disk', (head) => startsWith(head, 'Bochs Virtual HD Image')],
  ['a qcow disk of version 1', (head) => head.length >= 8 && head.readUInt32BE(0) === qcow2Magic && head.readUInt32BE(4) === 1],
];

/** Files of other kinds. A disk that boots begins with code for its processor, and none of these is any. */
const otherFiles: readonly [string, (head: Buffer) => boolean][] = [
  ['compressed by gzip; unpack it first', (head) => startsWith(head, '\x1f\x8b')],
  ['compressed by xz; unpack it first', (head) => startsWith(head, '\xfd7zXZ\0')],
  ['compressed by zstd; unpack it first', (head) => startsWith(head, '\x28\xb5\x2f\xfd')],
  ['compressed by bzip2; unpack it first', (head) => /^BZh[1-9]/.test(head.subarray(0, 4).toString('latin1'))],
  ['compressed by lz4; unpack it first', (head) => startsWith(head, '\x04\x22\x4d\x18')],
  ['a zip archive (an OVA or a box, perhaps); unpack it first', (head) => startsWith(head, 'PK\x03\x04')],
  ['a 7z archive; unpack it first', (head) => startsWith(head, '7z\xbc\xaf\x27\x1c')],
  ['a tar archive (an OVA, perhaps); unpack it first', (head) => startsWith(head, 'ustar', 257)],
  ['an ISO image of a CD; install from it to a disk first', (head) => startsWith(head, 'CD001', 32_769)],
  ['a squashfs file system, not a disk', (head) => startsWith(head, 'hsqs')],
  ['a cpio archive, such as an initrd', (head) => startsWith(head, '07070')],
  ['an ar archive, such as a Debian package', (head) => startsWith(head, '!<arch>\n')],
  ['a Linux kernel, not a disk', (head) => startsWith(head, 'HdrS', 514)],
  ['a program (ELF)', (head) => startsWith(head, '\x7fELF')],
  ['a picture', (head) => startsWith(head, '\x89PNG\r\n') || startsWith(head, 'GIF8') || startsWith(head, '\xff\xd8\xff')],
  ['a PDF document', (head) => startsWith(head, '%PDF-')],
  ['an SQLite database', (head) => startsWith(head, 'SQLite format 3\0')],
  ['a web page; was it fetched from a page about the disk?', isWebPage],
  ['a text', isText],
];

/** As text it begins with a tag, after white space and a byte order mark. */
function isWebPage(head: Buffer): boolean {
  return /^(\ufeff)?\s*<(!doctype|html|head|body|\?xml|!--)/i.test(head.subarray(0, 512).toString('utf8'));
}

/** No boot sector is printable throughout: its mark is no UTF-8. The end may be in the middle of a character. */
function isText(head: Buffer): boolean {
  const text = head
    .subarray(0, 512)
    .toString('utf8')
    .replace(/\ufffd$/, '');
  return !hasBootMark(head) && /^[\t\n\r\x20-\x7e\u00a0-\ufffc]+$/.test(text);
}

/** How many first bytes of a file decide. */
export const diskHeadBytes = 64 * 1024;

const isQcow2 = (head: Buffer): boolean => head.length >= 4 && head.readUInt32BE(0) === qcow2Magic;

/** The mark at the end of a boot sector: a PC's firmware starts no disk without it, and a GPT disk has it as well. */
const hasBootMark = (head: Buffer): boolean => head.length >= 512 && head.readUInt16LE(510) === 0xaa55;

/**
 * What an uploaded file certainly is, where that is no disk that a VM could boot; null: it may be one.
 * @param head its first `diskHeadBytes` bytes
 */
export function knownOtherFormat(head: Buffer): string | null {
  const disk = otherDisks.find(([, is]) => is(head))?.[0];
  if (disk !== undefined) return `this is ${disk}; qcow2 and raw are taken`;
  if (isQcow2(head)) return null;
  const file = otherFiles.find(([, is]) => is(head))?.[0];
  if (file !== undefined) return `this is ${file}`;
  if (head.length === 0) return 'it has no bytes';
  if (head.every((byte) => byte === 0)) return 'it is empty: its first bytes are all zero';
  return hasBootMark(head) ? null : 'it has no boot sector (no 0x55 0xAA at byte 510): no firmware starts it';
}
