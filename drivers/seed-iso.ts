/**
 * A disc with a few files in its root, as ECMA-119 (ISO 9660) has it, at the least that Linux and blkid read: one volume
 * descriptor, one directory, files one after the other. Names are kept in capitals, and shown by Linux in small letters.
 */
const sectorBytes = 2048;
const sectors = { descriptor: 16, end: 17, pathsLittle: 18, pathsBig: 19, root: 20, files: 21 } as const;
const rootBytes = sectorBytes;
const pathTableBytes = 10;

const sectorsOf = (bytes: number): number => Math.ceil(bytes / sectorBytes);

/** Numbers are written twice, in both orders (7.2.3 and 7.3.3 of the standard). */
function both16(into: Buffer, at: number, value: number): void {
  into.writeUInt16LE(value, at);
  into.writeUInt16BE(value, at + 2);
}
function both32(into: Buffer, at: number, value: number): void {
  into.writeUInt32LE(value, at);
  into.writeUInt32BE(value, at + 4);
}

/** 9.1: where something is and how long it is. */
function directoryRecord(name: Buffer, sector: number, bytes: number, isFolder: boolean): Buffer {
  const record = Buffer.alloc(33 + name.length + (name.length % 2 === 0 ? 1 : 0));
  record.writeUInt8(record.length, 0);
  both32(record, 2, sector);
  both32(record, 10, bytes);
  // 1970-01-01 would be the 70th year since 1900; the month and the day count from 1.
  record.set([70, 1, 1, 0, 0, 0, 0], 18);
  record.writeUInt8(isFolder ? 2 : 0, 25);
  both16(record, 28, 1);
  record.writeUInt8(name.length, 32);
  name.copy(record, 33);
  return record;
}

function descriptor(label: string, totalSectors: number): Buffer {
  const volume = Buffer.alloc(sectorBytes);
  volume.set([1, ...Buffer.from('CD001'), 1]);
  volume.fill(' ', 8, 72).write(label, 40, 'latin1');
  both32(volume, 80, totalSectors);
  both16(volume, 120, 1);
  both16(volume, 124, 1);
  both16(volume, 128, sectorBytes);
  both32(volume, 132, pathTableBytes);
  volume.writeUInt32LE(sectors.pathsLittle, 140);
  volume.writeUInt32BE(sectors.pathsBig, 148);
  directoryRecord(Buffer.from([0]), sectors.root, rootBytes, true).copy(volume, 156);
  volume.fill(' ', 190, 813);
  // No dates: sixteen zeros each, and the zone.
  for (let at = 813; at < 881; at += 17) volume.fill('0', at, at + 16);
  volume.writeUInt8(1, 881);
  return volume;
}

function pathTable(big: boolean): Buffer {
  const table = Buffer.alloc(sectorBytes);
  table.writeUInt8(1, 0);
  if (big) table.writeUInt32BE(sectors.root, 2);
  else table.writeUInt32LE(sectors.root, 2);
  if (big) table.writeUInt16BE(1, 6);
  else table.writeUInt16LE(1, 6);
  return table;
}

/** @param files by name: letters, digits, "-" and "."; few enough that the directory is one sector */
export function isoImage(label: string, files: Record<string, string>): Buffer {
  const entries = Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1));
  const root = [Buffer.from([0]), Buffer.from([1])].map((name) => directoryRecord(name, sectors.root, rootBytes, true));
  const contents: Buffer[] = [];
  let next: number = sectors.files;
  for (const [name, text] of entries) {
    if (!/^[a-z0-9.-]{1,30}$/.test(name)) throw new Error(`BUG: ${JSON.stringify(name)} can't name a file of a seed`);
    const content = Buffer.from(text);
    root.push(directoryRecord(Buffer.from(`${name.toUpperCase()};1`), next, content.length, false));
    contents.push(Buffer.concat([content], sectorsOf(content.length) * sectorBytes));
    next += sectorsOf(content.length);
  }
  const folder = Buffer.concat(root);
  if (folder.length > rootBytes) throw new Error('BUG: a seed with more files than its directory holds');
  const end = Buffer.alloc(sectorBytes);
  end.set([255, ...Buffer.from('CD001'), 1]);
  return Buffer.concat([
    Buffer.alloc(sectors.descriptor * sectorBytes),
    descriptor(label, next),
    end,
    pathTable(false),
    pathTable(true),
    Buffer.concat([folder], rootBytes),
    ...contents,
  ]);
}
