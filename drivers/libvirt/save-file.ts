import { BerthError } from '../../model/errors.ts';

/**
 * The header of a file that `virsh save` wrote (libvirt, src/qemu/qemu_saveimage.h), in the byte order of the machine:
 *
 *   magic[16] "LibvirtQemudSave" · u32 version · u32 length of the data · u32 was running · u32 format · u32 cookie's
 *   offset in the data · u32 unused[14] · data: the domain's XML, NUL, the cookie, NUL, padding · QEMU's stream
 *
 * libvirt restores a machine under the name and UUID that its XML says. So a header with another XML, before the same
 * stream, makes another VM of it (docs/decisions/0043).
 */
interface SaveHeader {
  version: number;
  running: boolean;
  xml: string;
  /** What libvirt saves besides the XML, such as the exact CPU; null in files that have none. */
  cookie: string | null;
  /** Where QEMU's stream begins. */
  streamOffset: number;
}

/** The first bytes of a complete file. */
export const savedMagic = 'LibvirtQemudSave';
/** The first bytes until all of it is written: an interrupted save has them. */
const partialMagic = 'LibvirtQemudPart';
const fixedBytes = 92;
/** A domain's XML has some kilobytes, and its padding 64 KiB. */
const dataLimitBytes = 2 ** 20;
/** 2: libvirt 1.1 and later. 3 adds formats of the stream; the uncompressed one is unchanged. */
const versions = [2, 3];
/** Not compressed. */
const rawFormat = 0;

const headerError = (what: string): BerthError => new BerthError('hypervisor', `reading a saved machine: ${what}`);

/** @param start the file, or as much of its beginning as holds the header. Throws `hypervisor` for an unknown form. */
export function parseSaveHeader(start: Buffer): SaveHeader {
  const { version, length, running, cookieAt } = parseFixed(start);
  const end = fixedBytes + length;
  if (start.length < end) throw headerError(`its header has ${end} bytes, of which ${start.length} are there`);
  const data = start.subarray(fixedBytes, end);
  const xml = textUntilNul(cookieAt === 0 ? data : data.subarray(0, cookieAt), 'XML');
  if (!xml.startsWith('<domain')) throw headerError('its header holds no domain');
  return {
    version,
    running,
    xml,
    cookie: cookieAt === 0 ? null : textUntilNul(data.subarray(cookieAt), 'cookie'),
    streamOffset: end,
  };
}

function parseFixed(start: Buffer): { version: number; length: number; running: boolean; cookieAt: number } {
  if (start.length < fixedBytes) throw headerError(`${start.length} bytes, which is less than a header`);
  const found = start.toString('latin1', 0, 16);
  if (found === partialMagic) throw headerError('its save was interrupted');
  if (found !== savedMagic) throw headerError(`it begins with ${JSON.stringify(found)}`);
  const [version, length, running, format, cookieAt] = [16, 20, 24, 28, 32].map((at) => start.readUInt32LE(at)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  if (!versions.includes(version)) throw headerError(`version ${version}, where ${versions.join(' and ')} are known`);
  if (format !== rawFormat) throw headerError(`its stream has format ${format}, where only the uncompressed one is known`);
  if (running > 1) throw headerError(`"was running" is ${running}`);
  if (length > dataLimitBytes) throw headerError(`its header announces ${length} bytes, at most ${dataLimitBytes} are read`);
  if (cookieAt >= length && cookieAt !== 0) throw headerError(`its cookie is at ${cookieAt} of ${length} bytes`);
  return { version, length, running: running === 1, cookieAt };
}

function textUntilNul(bytes: Buffer, what: string): string {
  const end = bytes.indexOf(0);
  if (end === -1) throw headerError(`its ${what} has no end`);
  return bytes.toString('utf8', 0, end);
}

/** A header for the same stream, with another XML. It needs no padding: the stream begins where the header ends. */
export function writeSaveHeader({ version, running, cookie }: SaveHeader, xml: string): Buffer {
  const text = Buffer.from(`${xml}\0`);
  const data = cookie === null ? text : Buffer.concat([text, Buffer.from(`${cookie}\0`)]);
  if (data.length > dataLimitBytes)
    throw headerError(`a header of ${data.length} bytes is needed, at most ${dataLimitBytes} are written`);
  const fixed = Buffer.alloc(fixedBytes);
  fixed.write(savedMagic, 'latin1');
  for (const [index, value] of [version, data.length, running ? 1 : 0, rawFormat, cookie === null ? 0 : text.length].entries())
    fixed.writeUInt32LE(value, 16 + 4 * index);
  return Buffer.concat([fixed, data]);
}
