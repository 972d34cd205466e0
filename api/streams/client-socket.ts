import type { WebSocket } from 'ws';
import { berthProtocol, ClientControl, channelMessage, channels, Resize } from '../../model/streams/channels.ts';
import { inputWindowBytes, outputWindowBytes } from '../../model/streams/frames.ts';
import { closeCodes, jsonMessage, parseMessage } from './messages.ts';
import type { ClientEnd, Relay } from './relay.ts';

/** A client of Berth keeps to the window of its input; of another one so much is taken before it is made to wait. */
const inputSlackBytes = 2 * inputWindowBytes;
const otherInputBytes = 2 ** 20;
/** Of what the client was sent and has not taken: its window, and what the guest sends again after a loss. */
const unsentBytes = 2 ** 20 + 2 * outputWindowBytes;
const lastWordMs = 10_000;

/**
 * Connects a client's WebSocket with a relay. A client of Berth confirms output by the pongs that every WebSocket sends: in the
 * order of the messages, so that a pong says what has arrived. One that speaks Kubernetes' protocol alone can't resume: what
 * was handed to its connection counts as confirmed, and it is made to wait by its connection, which holds back its pongs.
 */
export function serveClient(socket: WebSocket, relay: Relay, session: string): void {
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
      if (resumes) socket.send(jsonMessage(channels.control, { input }));
      else if (relay.unreadBytes < otherInputBytes) socket.resume();
    },
    output(channel, bytes, end) {
      if (socket.bufferedAmount > unsentBytes) return socket.close(closeCodes.tooBig, 'the output was not read');
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

  function takeControl(bytes: Buffer): void {
    const control = parseMessage(ClientControl, bytes);
    if (control === null) socket.close(closeCodes.protocolError, 'not a control message');
    else relay.signal(control.signal);
  }

  function takeInput(bytes: Buffer): void {
    relay.input(bytes);
    if (resumes && relay.unreadBytes > inputSlackBytes) socket.close(closeCodes.tooBig, 'more input than its window');
    if (!resumes && relay.unreadBytes >= otherInputBytes) socket.pause();
  }

  socket.on('message', (data, isBinary) => {
    const bytes = data as Buffer;
    const channel = bytes[0];
    if (!isBinary) return socket.close(closeCodes.protocolError, 'messages are binary');
    if (channel === undefined || over) return;
    const rest = bytes.subarray(1);
    if (channel === channels.stdin) takeInput(rest);
    else if (channel === channels.resize) {
      const size = parseMessage(Resize, rest);
      if (size !== null) relay.resize({ rows: size.Height, cols: size.Width });
    } else if (channel === channels.close && rest[0] === channels.stdin) relay.endInput();
    else if (channel === channels.control && resumes) takeControl(rest);
    else if (channel !== channels.close) socket.close(closeCodes.protocolError, 'no such channel');
  });
  socket.on('pong', (data) => {
    const text = data.toString();
    if (text === 'end') return onLastWord?.();
    const at = Number(text);
    marked = null;
    if (Number.isSafeInteger(at)) relay.confirm(at);
    if (at !== wanted) ask();
  });
  socket.on('error', () => undefined);
  socket.once('close', (code) => relay.close(code === closeCodes.normal && !over));
  relay.serve(client);
  socket.resume();
}
