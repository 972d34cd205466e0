import { EventEmitter } from 'node:events';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { WebSocket } from 'ws';
import { z } from 'zod';
import { InputBuffer } from '../../../../model/streams/input-buffer.ts';
import {
  endSocket,
  InvalidMessage,
  type MessageHandlers,
  parseMessage,
  takeMessages,
} from '../../../../model/streams/messages.ts';

/** A connection whose messages come as the test says. */
function connection(handlers: Partial<MessageHandlers> = {}) {
  const bugs: unknown[] = [];
  const closed: { code: number; reason: string }[] = [];
  const socket = Object.assign(new EventEmitter(), {
    OPEN: 1,
    readyState: 1,
    close(code: number, reason: Buffer) {
      socket.readyState = 2;
      closed.push({ code, reason: String(reason) });
    },
  });
  takeMessages(socket as unknown as WebSocket, { onBug: (error) => bugs.push(error), ...handlers });
  return { socket, bugs, closed };
}

describe('a message', () => {
  test('of the other kind is invalid', () => {
    const text = connection({ binary: () => undefined });
    text.socket.emit('message', Buffer.from('x'), false);
    expect(text.closed).toEqual([{ code: 1002, reason: 'messages are binary' }]);
    const binary = connection({ text: () => undefined, invalid: 4002 });
    binary.socket.emit('message', Buffer.from('x'), true);
    expect(binary.closed).toEqual([{ code: 4002, reason: 'messages are text' }]);
    expect([...text.bugs, ...binary.bugs]).toEqual([]);
  });

  test.each(['message', 'pong'])('whose handling throws ends its connection, and is told of: a %s', (event) => {
    const error = new TypeError('of ours');
    const fail = (): never => {
      throw error;
    };
    const { socket, bugs, closed } = connection({ binary: fail, pong: fail });
    socket.emit(event, Buffer.from('x'), true);
    expect(bugs).toEqual([error]);
    expect(closed).toEqual([{ code: 1011, reason: 'an error of Berth' }]);
  });

  test('that comes after this end has closed the connection is dropped', () => {
    const seen: string[] = [];
    const { socket, closed } = connection({
      binary(bytes) {
        seen.push(String(bytes));
        throw new InvalidMessage('once');
      },
    });
    for (const text of ['a', 'b']) socket.emit('message', Buffer.from(text), true);
    expect(seen).toEqual(['a']);
    expect(closed).toEqual([{ code: 1002, reason: 'once' }]);
  });
});

test('a reason of any length and script is as much of it as a close frame holds', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (reason) => {
      const closed: Buffer[] = [];
      endSocket({ close: (_code, bytes) => void closed.push(bytes as Buffer) }, 1011, reason);
      const sent = closed[0]!;
      expect(sent.length).toBeLessThanOrEqual(123);
      expect(reason.toWellFormed().startsWith(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(sent))).toBe(
        true,
      );
      if (Buffer.byteLength(reason) > 126) expect(sent.length).toBeGreaterThan(119);
    }),
  );
});

test('a message in JSON is its value, or invalid, whatever its bytes are', () => {
  const schema = z.strictObject({ n: z.int() });
  expect(parseMessage(schema, Buffer.from('{"n":1}'), 'a number')).toEqual({ n: 1 });
  const any = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.json().map((text) => Buffer.from(text)),
  );
  fc.assert(
    fc.property(any, (bytes) => {
      try {
        parseMessage(schema, bytes, 'a number');
      } catch (error) {
        expect(error).toBeInstanceOf(InvalidMessage);
      }
    }),
  );
});

describe('an input of single bytes', () => {
  test('is the same input, and few pieces', () => {
    const input = new InputBuffer(0);
    const size = 200_000;
    for (let n = 0; n < size; n += 1) input.push(Buffer.from([n % 251]));
    expect(input.confirm(70_001)).toBe(true);
    input.push(Buffer.alloc(40_000, 7));
    const parts = [...input.read(0, Number.MAX_SAFE_INTEGER, 16 * 1024)];
    expect(parts.length).toBeLessThan(20);
    const all = Buffer.concat(parts.map(({ bytes }) => bytes));
    expect(all.length).toBe(size - 70_001 + 40_000);
    expect(all.subarray(0, size - 70_001).every((byte, index) => byte === (index + 70_001) % 251)).toBe(true);
  });

  test('is what was pushed and not confirmed, for any pieces and confirmations', () => {
    const act = fc.oneof(fc.uint8Array({ maxLength: 40_000, size: 'max' }), fc.nat({ max: 50_000 }));
    fc.assert(
      fc.property(fc.array(act, { maxLength: 12 }), (acts) => {
        const input = new InputBuffer(0);
        let [all, from] = [Buffer.alloc(0), 0];
        for (const next of acts) {
          if (typeof next !== 'number') {
            input.push(next);
            all = Buffer.concat([all, next]);
            continue;
          }
          from = Math.min(all.length, from + next);
          expect(input.confirm(from)).toBe(true);
        }
        const kept = Buffer.concat([...input.read(0, Number.MAX_SAFE_INTEGER, 9999)].map(({ bytes }) => bytes));
        expect(kept.equals(all.subarray(from))).toBe(true);
        expect([input.from, input.end]).toEqual([from, all.length]);
      }),
      { numRuns: 60 },
    );
  });
});
