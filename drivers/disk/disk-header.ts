import { BerthError } from '../../model/errors.ts';
import { diskHeadBytes, knownOtherFormat, qcow2Magic } from '../../model/input/disk-format.ts';

/** What an uploaded disk is, by its own first bytes. */
interface DiskHeader {
  format: 'qcow2' | 'raw';
  virtualBytes: number;
}

/** A part of a file; fewer bytes where it ends. */
type ReadAt = (offset: number, length: number) => Promise<Buffer>;

const refused = (why: string): BerthError => new BerthError('image-refused', `Taking an uploaded disk: ${why}`);

const sectorBytes = 512;
const maxL1Bytes = 32 * 2 ** 20;
const maxRefcountTableBytes = 8 * 2 ** 20;

/**
 * Determines the format of an uploaded disk, and refuses (`image-refused`) whatever could lead a program that opens it to
 * another file, or to more bytes than allowed: before any such program opens it. The file's name is ignored.
 * @param sizeBytes of the file
 * @param limitBytes the most that a VM may see of it
 */
export async function readDiskHeader(read: ReadAt, sizeBytes: number, limitBytes: number): Promise<DiskHeader> {
  // More than a header with its extensions has in practice; the rest of a larger first cluster isn't read.
  const head = await read(0, diskHeadBytes);
  const other = knownOtherFormat(head);
  if (other !== null) throw refused(other);
  const isQcow2 = head.length >= 4 && head.readUInt32BE(0) === qcow2Magic;
  const virtualBytes = isQcow2 ? readQcow2(head, sizeBytes) : sizeBytes;
  if (virtualBytes === 0) throw refused('it has no bytes');
  if (virtualBytes > limitBytes)
    throw refused(`its virtual size is ${virtualBytes} bytes, and the recipe's sizeMiB allows ${limitBytes}`);
  if (virtualBytes % sectorBytes !== 0) throw refused(`its size of ${virtualBytes} bytes is not a number of whole sectors`);
  return { format: isQcow2 ? 'qcow2' : 'raw', virtualBytes };
}

/** Offsets are those of docs/interop/qcow2.rst in QEMU's sources. Returns the virtual size. */
function readQcow2(head: Buffer, sizeBytes: number): number {
  if (head.length < 72) throw refused('its qcow2 header is cut off');
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw refused(`its qcow2 version is ${version}; 2 and 3 are known`);
  refuseReferences(head);
  const clusterBits = head.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) throw refused(`its cluster_bits are ${clusterBits}; 9 to 21 are legal`);
  const virtualBytes = toNumber(head.readBigUInt64BE(24), 'virtual size');
  const headerLength = version === 2 ? 72 : readVersion3(head);
  if (headerLength > 2 ** clusterBits) throw refused('its header is longer than a cluster');
  readExtensions(head, headerLength, Math.min(2 ** clusterBits, head.length));
  checkTables(head, clusterBits, virtualBytes, sizeBytes);
  return virtualBytes;
}

function refuseReferences(head: Buffer): void {
  if (head.readBigUInt64BE(8) !== 0n || head.readUInt32BE(16) !== 0)
    throw refused('it has a backing file; write it whole (qemu-img convert) first');
  if (head.readUInt32BE(32) !== 0) throw refused('it is encrypted');
  if (head.readUInt32BE(60) !== 0) throw refused(`it has ${head.readUInt32BE(60)} snapshots; delete them first`);
}

/** A size of more than 2^53 bytes is refused like any that is too large. */
function toNumber(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(`its ${what} is ${value} bytes`);
  return Number(value);
}

function readVersion3(head: Buffer): number {
  if (head.length < 104) throw refused('its qcow2 header is cut off');
  const features = head.readBigUInt64BE(72);
  if ((features & 1n) !== 0n) throw refused('it was not closed properly; repair it (qemu-img check -r all) first');
  if ((features & 2n) !== 0n) throw refused('it is marked as corrupt');
  if ((features & 4n) !== 0n) throw refused('its data is in an external file');
  // Bits 3 and 4: another compression, and subclusters.
  if ((features & ~0b11111n) !== 0n) throw refused(`it needs features that are not known: 0x${features.toString(16)}`);
  if (head.readUInt32BE(96) > 6) throw refused(`its refcount_order is ${head.readUInt32BE(96)}; 0 to 6 are legal`);
  const length = head.readUInt32BE(100);
  if (length < 104 || length % 8 !== 0 || length > 4096) throw refused(`its header_length is ${length}`);
  return length;
}

const extensions = {
  end: 0,
  featureNames: 0x6803f857,
  backingFormat: 0xe2792aca,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

function readExtensions(head: Buffer, from: number, to: number): void {
  for (let at = from; at + 8 <= to; ) {
    const [type, length] = [head.readUInt32BE(at), head.readUInt32BE(at + 4)];
    if (type === extensions.end) return;
    if (type === extensions.dataFile) throw refused('its data is in an external file');
    if (type === extensions.backingFormat) throw refused('it names the format of a backing file');
    if (type === extensions.encryption) throw refused('it is encrypted');
    if (type !== extensions.featureNames && type !== extensions.bitmaps)
      throw refused(`it has a header extension that is not known: 0x${type.toString(16)}`);
    at += 8 + Math.ceil(length / 8) * 8;
    if (at > to) throw refused('a header extension is longer than its cluster');
  }
}

/** Where the tables say they are: aligned, inside the file, and no larger than the virtual size needs. */
function checkTables(head: Buffer, clusterBits: number, virtualBytes: number, sizeBytes: number): void {
  const clusterBytes = 2 ** clusterBits;
  const inside = (offset: bigint, length: number, what: string): void => {
    if (offset === 0n || offset % BigInt(clusterBytes) !== 0n || offset + BigInt(length) > BigInt(sizeBytes))
      throw refused(`its ${what} is at ${offset}, with ${length} bytes: not in this file of ${sizeBytes}`);
  };
  const l1Bytes = head.readUInt32BE(36) * 8;
  if (l1Bytes > maxL1Bytes) throw refused(`its L1 table has ${l1Bytes} bytes`);
  // With subclusters an entry of L2 has 16 bytes: half as many to a cluster.
  const subclusters = head.readUInt32BE(4) === 3 && (head.readBigUInt64BE(72) & 16n) !== 0n;
  const perL1 = clusterBytes * (clusterBytes / (subclusters ? 16 : 8));
  if (virtualBytes > (l1Bytes / 8) * perL1) throw refused('its L1 table is too small for its virtual size');
  if (l1Bytes > 0) inside(head.readBigUInt64BE(40), l1Bytes, 'L1 table');
  const refcountBytes = head.readUInt32BE(56) * clusterBytes;
  if (refcountBytes === 0 || refcountBytes > maxRefcountTableBytes)
    throw refused(`its refcount table has ${refcountBytes} bytes`);
  inside(head.readBigUInt64BE(48), refcountBytes, 'refcount table');
}
