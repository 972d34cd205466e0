import { encodePortFrame, PortReader } from '../../../drivers/guest/streams/port-framing.ts';
import { bodyBytes, encodeGuestFrame, type GuestFrame, parseGuestFrame, sessionOf } from '../../../model/streams/frames.ts';
import { changeBytes } from '../random.ts';
import { type FuzzTarget, Wrong } from '../target.ts';

const session = '00ff'.repeat(8);
const frames: GuestFrame[] = [
  { type: 'attached', input: 7, signals: 1, first: 0, last: 9 },
  { type: 'refused', why: 'lostOutput' },
  { type: 'output', at: 2 ** 40, channel: 2, bytes: Buffer.from('a\0b\0\0c') },
  { type: 'output', at: 0, channel: 1, bytes: Buffer.alloc(600, 1) },
  { type: 'read', at: 65_536 },
  { type: 'ended', at: 12, how: 'signalled', code: 9 },
];
/** As a body, without the CRC that keeps most changes of a frame from its parser. */
const bodies = frames.map((frame) => encodeGuestFrame(session, frame));
const good = Buffer.concat(bodies.map(encodePortFrame));

/** No number that a frame tells is one that can't be counted with. */
function requireBounds(frame: GuestFrame): void {
  for (const value of Object.values(frame))
    if (typeof value === 'number' && !(Number.isSafeInteger(value) && value >= 0)) throw new Wrong(`${frame.type} with ${value}`);
  if (frame.type === 'output' && frame.bytes.length === 0) throw new Wrong('an output of nothing');
}

/** What a guest sends on its stream port: whatever it is, the frames after it are read, and none is longer than a frame may be. */
export const streamFramesTarget = (): FuzzTarget => ({
  corpus: async () => [good, ...bodies],
  change(random, input) {
    const changed = Buffer.from(input);
    for (let changes = 1 + random.below(4); changes > 0; changes -= 1) changeBytes(random, changed, [0, 1, 17, 25]);
    return changed.subarray(0, 1 + random.below(changed.length));
  },
  async run(input) {
    const reader = new PortReader();
    const asBody = parseGuestFrame(input);
    if (asBody !== null) requireBounds(asBody);
    const seen: string[] = [asBody?.type ?? 'no body'];
    // In pieces, as a socket brings them.
    for (let at = 0; at < input.length; at += 37)
      for (const body of reader.push(input.subarray(at, at + 37))) {
        if (body.length > bodyBytes + 64) throw new Wrong(`a body of ${body.length} bytes`);
        const frame = parseGuestFrame(body);
        if (frame !== null) requireBounds(frame);
        seen.push(frame?.type ?? (sessionOf(body) === null ? 'short' : 'none'));
      }
    // The first zero of the good ones may complete what came before.
    const after = [...reader.push(good)].map((body) => parseGuestFrame(body)?.type).slice(-frames.length);
    if (after.join() !== frames.map(({ type }) => type).join()) throw new Wrong(`after it ${after.join()} was read`);
    return `${[...new Set(seen)].sort().join()} ${Math.min(reader.damaged, 3)}`;
  },
});
