import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseSaveHeader, writeSaveHeader } from '../../../../drivers/libvirt/save-file.ts';
import { BerthError } from '../../../../model/errors.ts';

/** The first 70,000 bytes of a file that libvirt 11.3 saved: its header, padded, and the beginning of QEMU's stream. */
const real = gunzipSync(readFileSync(new URL('./saved/machine.gz', import.meta.url)));
const streamMagic = 'QEVM';

const patched = (at: number, value: number): Buffer => {
  const copy = Buffer.from(real);
  copy.writeUInt32LE(value, at);
  return copy;
};

describe("a saved machine's header", () => {
  it('is parsed as libvirt wrote it', () => {
    const header = parseSaveHeader(real);
    expect(header).toMatchObject({ version: 2, running: true });
    expect(header.xml).toMatch(/^<domain type='qemu'[\s\S]*<name>tpl<\/name>[\s\S]*<\/domain>\n?$/);
    expect(header.cookie).toMatch(/^<cookie>[\s\S]*qemu64[\s\S]*<\/cookie>\n?$/);
    expect(real.toString('latin1', header.streamOffset, header.streamOffset + 4)).toBe(streamMagic);
  });

  it('holds another description before the same stream, and is parsed again', () => {
    const header = parseSaveHeader(real);
    const xml = '<domain type="qemu"><name>üther</name></domain>';
    const file = Buffer.concat([writeSaveHeader(header, xml), real.subarray(header.streamOffset)]);
    const again = parseSaveHeader(file);
    expect(again).toEqual({ ...header, xml, streamOffset: again.streamOffset });
    expect(file.subarray(again.streamOffset)).toEqual(real.subarray(header.streamOffset));
  });

  it('may be without a cookie', () => {
    const header = { ...parseSaveHeader(real), cookie: null };
    expect(parseSaveHeader(writeSaveHeader(header, header.xml))).toMatchObject({ xml: header.xml, cookie: null });
  });

  it.each([
    ['is cut off before its end', real.subarray(0, 91), /less than a header/],
    ['is cut off in its data', real.subarray(0, 4000), /of which 4000 are there/],
    ['has another magic', Buffer.concat([Buffer.from('QEVM'), real]), /begins with/],
    ['was interrupted', Buffer.concat([Buffer.from('LibvirtQemudPart'), real.subarray(16)]), /save was interrupted/],
    ['has an unknown version', patched(16, 4), /version 4/],
    ['announces more than it may', patched(20, 2 ** 31), /announces/],
    ['is of a machine in no state', patched(24, 7), /was running/],
    ['is compressed', patched(28, 3), /format 3/],
    ['has its cookie outside', patched(32, 70_000), /cookie is at/],
    ['has an XML without end', patched(32, 100), /XML has no end/],
  ])('is refused when it %s', (_, bytes, why) => {
    expect(() => parseSaveHeader(bytes)).toThrow(why);
    expect(() => parseSaveHeader(bytes)).toThrow(BerthError);
  });

  it('is parsed or refused, whatever its bytes are', () => {
    const spoilt = fc.array(fc.tuple(fc.nat(91), fc.nat(255)), { maxLength: 8 });
    fc.assert(
      fc.property(spoilt, (changes) => {
        const copy = Buffer.from(real);
        for (const [at, value] of changes) copy[at] = value;
        try {
          const { xml, streamOffset: streamAt } = parseSaveHeader(copy);
          expect(xml.length).toBeLessThan(streamAt);
          expect(streamAt).toBeLessThanOrEqual(copy.length);
        } catch (error) {
          expect(error).toBeInstanceOf(BerthError);
        }
      }),
    );
  });
});
