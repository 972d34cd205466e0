import { once } from 'node:events';
import { expect } from 'vitest';
import { WebSocket } from 'ws';
import type { StreamOrder } from '../../contracts/stream.ts';
import type { ConsolePlace } from '../../model/streams/console.ts';
import {
  encodeGuestFrame,
  type GuestFrame,
  type HostFrame,
  parseHostFrame,
  type StreamRequest,
  sessionOf,
} from '../../model/streams/frames.ts';
import { type RunningApi, startApi } from './running-api.ts';

/** An API with a VM that runs, whose host tests play. */
export async function startApiWithVm(settings: Record<string, string> = {}): Promise<{ api: RunningApi; vm: string }> {
  const api = await startApi(settings);
  await api.addImage('debian-12');
  await api.addHost('host-a');
  const order = { name: 'web', image: 'debian-12' };
  const vm = (await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json: order })).body.id;
  await api.runOn(vm, 'host-a');
  return { api, vm };
}

/** A host and its guest, as an API process sees them: it connects when it is asked to, and answers as the test says. */
export function hostOf(base: string) {
  const orders: StreamOrder[] = [];
  const requests: StreamRequest[] = [];
  let socket: WebSocket | null = null;
  let session = '';
  let at = 0;
  const console = { orders: [] as object[], typed: '' };
  const state = { attached: 0, last: null as HostFrame['type'] | null };
  const send = (frame: GuestFrame): void => socket?.send(encodeGuestFrame(session, frame));

  function take(body: Buffer): void {
    const frame = parseHostFrame(body);
    if (frame === null) throw new Error(`The API sent ${body.toString('hex')}`);
    session = sessionOf(body) ?? '';
    state.last = frame.type;
    if (frame.type === 'open') {
      requests.push(frame.request);
      at = 0;
    }
    if (frame.type !== 'open' && frame.type !== 'attach') return;
    state.attached += 1;
    send({ type: 'attached', input: 0, signals: 0, first: 0, last: at });
  }

  return {
    console: {
      get orders() {
        return console.orders;
      },
      get typed() {
        return console.typed;
      },
      report: (report: object) => socket?.send(JSON.stringify(report)),
      write(text: string, place: ConsolePlace) {
        socket?.send(JSON.stringify({ place }));
        socket?.send(Buffer.from(text));
      },
    },
    orders,
    requests,
    get attached() {
      return state.attached;
    },
    get last() {
      return state.last;
    },
    /** @param again how many bytes of before are sent once more */
    output(text: string, { channel = 1 as 1 | 2, again = 0 } = {}) {
      send({ type: 'output', at: at - again, channel, bytes: Buffer.from(`${'.'.repeat(again)}${text}`) });
      at += text.length;
    },
    read(input: number) {
      send({ type: 'read', at: input });
    },
    end(code: number) {
      send({ type: 'ended', at, how: 'exited', code });
    },
    lose() {
      socket?.close(4001);
    },
    /** Takes nothing more of what the API sends. */
    stall() {
      socket?.pause();
    },
    open: async (order: StreamOrder): Promise<void> => {
      orders.push(order);
      const url = new URL(`/internal/streams/${order.id}`, base.replace('http', 'ws'));
      const opening = new WebSocket(url, 'v1.host-stream.berth', { headers: { 'berth-stream-token': order.token } });
      opening.on('message', (data: Buffer, isBinary) => {
        if (!order.console) take(data);
        else if (isBinary) console.typed += String(data);
        else console.orders.push(JSON.parse(String(data)) as object);
      });
      socket = opening;
      await once(opening, 'open');
    },
  };
}

/** A command that has run to its end. */
export async function runCommand(
  host: ReturnType<typeof hostOf>,
  { output, error, code }: { output: string; error: string; code: number },
): Promise<void> {
  await expect.poll(() => host.attached).toBeGreaterThan(0);
  if (output !== '') host.output(output);
  if (error !== '') host.output(error, { channel: 2 });
  host.end(code);
}

/** The output of the command that reads a guest's processes. */
export function guestView(processes: number): string {
  const stat = (pid: number, ticks: number) =>
    `${pid} (busy) R 1 1 1 0 -1 4194560 10 20 0 0 ${ticks} 5 0 0 20 0 3 0 100 1000000 512 18446744073709551615 1 1 0 0 0 0 0\n`;
  const stats = (ticks: number) => Array.from({ length: processes }, (_, at) => stat(at + 1, ticks)).join('');
  return `0.10 0.20 0.30 1/99 1234\n==\n10.00 3.00\n${stats(100)}==\n11.00 3.00\n${stats(150)}`;
}

/** What the API answers where the guest's command prints this. */
export async function answeredByGuest<T>(api: RunningApi, output: string, call: () => Promise<T>): Promise<T> {
  const hosts = hostOf(api.base);
  api.workflows.requested.openStream = hosts.open;
  const answer = call();
  await runCommand(hosts, { output, error: '', code: 0 });
  return answer;
}
