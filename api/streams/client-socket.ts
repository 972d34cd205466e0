import type { WebSocket } from 'ws';
import { berthProtocol, ClientControl, channelMessage, channels, jsonMessage, Resize } from '../../model/streams/channels.ts';
import { inputWindowBytes, outputWindowBytes } from '../../model/streams/frames.ts';
import { closeCodes, endSocket, InvalidMessage, parseMessage, takeMessages } from '../../model/streams/messages.ts';
import type { ClientEnd, Relay } from './relay.ts';

/** A client of Berth keeps to the window of its input; of another one so much is taken before it is made to wait. */
const inputSlackBytes = 2 * inputWindowBytes;
const otherInputBytes = 2 ** 20;
/** Of what the client was sent and has not taken: its window, and what the guest sends again after a loss. */
const unsentBytes = 2 ** 20 + 2 * outputWindowBytes;
/** Of sizes and signals that the host has not taken: its connection is slower than a client that sends nothing else. */
const unsentOrdersBytes = 2 ** 20;
const lastWordMs = 10_000;

/**
 * Connects a client's WebSocket with a relay. A client of Berth confirms output by the pongs that every WebSocket sends: in the
 * order of the messages, so that a pong says what has arrived. One that speaks Kubernetes' protocol alone can't resume: what
 * was handed to its connection counts as confirmed, and it is made to wait by its connection, which holds back its pongs.
 */
export function serveClient(
  socket: WebSocket,
  relay: Relay,
  { session, onBug }: { session: string; onBug: (error: unknown) => void },
): void {
  const resumes = socket.protocol === berthProtocol;
  let marked: number | null = null;
  let wanted = 0;
  let over = false;
  let onLastWord: (() => void) | null = null;

  function ask(): void {
    if (marked !== null || socket.readyState !== socket.OPEN) return;
    marked = wanted;
    socket.ping(String(wanted));
  }

  const client: ClientEnd = {
    begin({ input, output }) {
      if (resumes) socket.send(jsonMessage(channels.control, { session, input, output }));
    },
    inputRead(input) {
      if (socket.bufferedAmount > unsentBytes)
        return endSocket(socket, closeCodes.tooBig, 'what was read of the input was not taken');
      if (resumes) socket.send(jsonMessage(channels.control, { input }));
      else if (relay.unreadBytes < otherInputBytes) socket.resume();
    },
    output(channel, bytes, end) {
      if (socket.bufferedAmount > unsentBytes) return endSocket(socket, closeCodes.tooBig, 'the output was not read');
      socket.send(channelMessage(channel, bytes), () => {
        if (!resumes) relay.confirm(end);
      });
      if (!resumes) return;
      wanted = end;
      ask();
    },
    end(status, confirmed) {
      over = true;
      socket.send(jsonMessage(channels.status, status), () => {
        if (!resumes) finish(confirmed);
      });
      if (!resumes) return;
      onLastWord = () => finish(confirmed);
      socket.ping('end');
      setTimeout(() => socket.close(closeCodes.normal), lastWordMs).unref();
    },
  };

  function finish(confirmed: () => void): void {
    confirmed();
    socket.close(closeCodes.normal);
  }

  function takeInput(bytes: Buffer): void {
    relay.input(bytes);
    if (resumes && relay.unreadBytes > inputSlackBytes) throw new InvalidMessage('more input than its window', closeCodes.tooBig);
    if (!resumes && relay.unreadBytes >= otherInputBytes) socket.pause();
  }

  function takeOrder(channel: number | undefined, bytes: Buffer): void {
    if (channel === channels.resize) {
      const { Height: rows, Width: cols } = parseMessage(Resize, bytes, "a terminal's size");
      if (rows > 0 && cols > 0) relay.resize({ rows, cols });
    } else if (channel === channels.control && resumes)
      relay.signal(parseMessage(ClientControl, bytes, 'a control message').signal);
    else if (channel === channels.close) {
      if (bytes[0] === channels.stdin) relay.endInput();
    } else throw new InvalidMessage('no such channel');
    if (relay.unsentBytes > unsentOrdersBytes) throw new InvalidMessage('more messages than the guest takes', closeCodes.policy);
  }

  takeMessages(socket, {
    binary(bytes) {
      if (bytes.length === 0 || over) return;
      if (bytes[0] === channels.stdin) takeInput(bytes.subarray(1));
      else takeOrder(bytes[0], bytes.subarray(1));
    },
    pong(bytes) {
      const text = bytes.toString();
      if (text === 'end') return onLastWord?.();
      const at = Number(text);
      marked = null;
      if (Number.isSafeInteger(at)) relay.confirm(at);
      if (at !== wanted) ask();
    },
    onBug,
  });
  socket.once('close', (code) => relay.close(code === closeCodes.normal && !over));
  relay.serve(client);
  socket.resume();
}
