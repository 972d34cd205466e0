import { once } from 'node:events';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { end, type GuestApi, openGuestApi, say, takeInput, vm } from './guest-api.ts';

let api: GuestApi;
beforeEach(async () => {
  api = await openGuestApi();
});
afterEach(() => api.close());

/** Forwards a port, until what `act` does with it is done. */
async function forwarding<T>(act: (port: number) => Promise<T>): Promise<T> {
  const child = api.start(['forward', vm, '0:80'], tmpdir());
  const ended = once(child, 'exit');
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  try {
    return await act(Number(/^127\.0\.0\.1:(\d+) is/.exec(String(line))![1]));
  } finally {
    child.kill();
    await ended;
  }
}

test('a client that has sent all it has gets the whole answer, which comes after that', async () => {
  const answer = 'x'.repeat(300_000);
  api.guest = (socket) => {
    let taken = '';
    takeInput(
      socket,
      (bytes, done) => {
        taken += String(bytes);
        done();
      },
      () =>
        setTimeout(() => {
          for (const part of [`${taken} `, answer]) say(socket, 1, Buffer.from(part));
          end(socket, 0);
        }, 100),
    );
  };
  const got = await forwarding(async (port) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.end('request');
    return text(socket);
  });
  expect(got).toBe(`request ${answer}`);
});

test('a client that goes away ends its connection, and no other', async () => {
  const closed: number[] = [];
  api.guest = (socket) => {
    socket.once('close', (code) => closed.push(code));
    takeInput(
      socket,
      (bytes, done) => {
        say(socket, 1, bytes);
        done();
      },
      () => end(socket, 0),
    );
  };
  await forwarding(async (port) => {
    const [first, second] = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')];
    for (const socket of [first, second]) {
      socket.write('a');
      await once(socket, 'data');
    }
    first.resetAndDestroy();
    await expect.poll(() => closed).toEqual([1000]);
    second.write('b');
    expect(String((await once(second, 'data'))[0])).toBe('b');
    second.destroy();
  });
});
