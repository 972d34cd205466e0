import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { test } from 'vitest';
import type { WebSocket } from 'ws';
import { acceptWebSocket, takeUpgrades } from '../../api/http/upgrade.ts';

/** An `error` that nothing listens to ends a process: here it fails the run. */
test('a connection that sends what is no frame with its request, and ends before anything listens, ends nothing else', async () => {
  const server = createServer();
  const accepted = Promise.withResolvers<WebSocket>();
  takeUpgrades(server, (req: IncomingMessage, res: ServerResponse) => {
    acceptWebSocket(req as never, res as never, 'p', 1024).then(accepted.resolve, accepted.reject);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  try {
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    client.on('error', () => undefined);
    const head = [
      'GET / HTTP/1.1',
      'Host: x',
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      `Sec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}`,
      'Sec-WebSocket-Protocol: p',
    ];
    // An opcode that is none: it waits with the connection, and is read when that closes.
    const wrong = Buffer.from([0x83, 0x81, 0, 0, 0, 0, 1]);
    client.write(Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), wrong]));
    const webSocket = await accepted.promise;
    const closed = new Promise((resolve) => webSocket.once('close', resolve));
    client.destroy();
    webSocket.terminate();
    await closed;
  } finally {
    server.close();
  }
});
