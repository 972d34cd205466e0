import { parse } from 'node:querystring';
import { validate } from '../../../api/http/validation.ts';
import { commandOf } from '../../../api/routes/streams.ts';
import { EdgeReport } from '../../../api/schemas/ports.ts';
import { ExecQuery, ForwardQuery } from '../../../api/schemas/streams.ts';
import { parseEdgeAnswer } from '../../../drivers/transfer/edge-orders.ts';
import { createMachineList } from '../../../drivers/transfer/machine-list.ts';
import { BerthError } from '../../../model/errors.ts';
import { PortRequest } from '../../../model/network/published-port.ts';
import { parsePlace } from '../../../model/streams/console.ts';
import { bodyBytes, encodeHostFrame, parseHostFrame } from '../../../model/streams/frames.ts';
import { type FuzzTarget, requireShortMessage, signatureOf, Wrong } from '../target.ts';
import { textTarget } from './text-target.ts';

/** Of the answer that tells a caller's mistakes. */
const answerChars = 20_000;

/** What comes of a request, which may be refused as the caller's mistake alone, in an answer of a bounded length. */
function outcome(act: () => string): string {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'bad-request') throw error;
    requireShortMessage(error.message);
    const answer = JSON.stringify(error.fields);
    if (answer.length > answerChars) throw new Wrong(`an answer of ${answer.length} characters`);
    // Without the caller's own names and texts, which would each be a new outcome.
    const kinds = error.fields.map(({ pointer, detail }) => `${pointer.split(/[./]/)[1]?.slice(0, 5)} ${detail.slice(-12)}`);
    return signatureOf([...new Set(kinds)].sort().slice(0, 2).join());
  }
}

const session = '0f'.repeat(16);

/** The parameters of a command, a connection and a console: what is taken fits its frame, and comes out of it as it was. */
export const execQueryTarget = (): FuzzTarget =>
  textTarget(
    [
      'command=sh&command=-c&command=id&tty=true&rows=24&cols=80',
      'command=a&env=A=b&env=LANG=C&stdin=true&timeoutS=60',
      `session=${session}&after=12`,
      'port=8080',
      'command=%E6%97%A5%00%FF',
      'host-a.123.456:78',
      `command=a${'&command=b'.repeat(247)}`,
    ],
    async (text) => {
      const query = parse(text);
      const run = outcome(() => {
        const request = commandOf(validate(ExecQuery, 'query', query), '/root');
        const frame = encodeHostFrame(session, { type: 'open', request });
        if (frame.length > bodyBytes) throw new Wrong(`a frame of ${frame.length} bytes`);
        const read = parseHostFrame(frame);
        if (JSON.stringify(read) !== JSON.stringify({ type: 'open', request })) throw new Wrong('the frame says something else');
        return `${request.kind} ${Math.min(request.argv.length, 3)} ${Math.min(request.env.length, 7)}`;
      });
      const forward = outcome(() => `port ${validate(ForwardQuery, 'query', query).port === undefined ? 'none' : 'some'}`);
      const place = parsePlace(text);
      if (place !== null && !(Number.isSafeInteger(place.at) && /^[\w.-]+$/.test(place.file))) throw new Wrong('a place');
      return `${run}; ${forward}; ${place === null ? '' : 'place'}`;
    },
  );

const report = { address: '10.77.0.9', turn: 1, epoch: 2, version: 'v', ports: { port_1: 'digest' }, problem: null };

/** The bodies of a port and of an edge's report. */
export const portRequestTarget = (): FuzzTarget =>
  textTarget(
    [
      '{"port":80,"allow":["198.51.100.0/24","192.0.2.1"]}',
      '{"port":53,"protocol":"udp","publicPort":20000}',
      '{"port":80,"allow":["expected 1.2.3.4, received 010.0.0.1/8\\n"]}',
      JSON.stringify(report),
    ],
    async (text) => {
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch {
        return 'no JSON';
      }
      const port = outcome(() => {
        const { allow } = validate(PortRequest, 'body', value);
        if (!allow.every((cidr) => /^[\d.]{7,15}\/\d{1,2}$/.test(cidr))) throw new Wrong(`clients ${allow.join()}`);
        return `port ${Math.min(allow.length, 2)}`;
      });
      return `${port}; ${outcome(() => `report ${typeof validate(EdgeReport, 'body', value).ports}`)}`;
    },
  );

const orders = {
  publicAddresses: ['203.0.113.7'],
  peers: ['10.77.0.2'],
  segments: [{ vni: 7, cidr: '10.1.0.0/24', address: '10.1.0.1' }],
  ports: [
    {
      id: 'port_1',
      vni: 7,
      protocol: 'tcp',
      publicAddress: '203.0.113.7',
      publicPort: 20_000,
      address: '10.1.0.2',
      port: 80,
      allow: ['0.0.0.0/0'],
      digest: 'd',
    },
  ],
};

/** What an edge and a host take of the API: of what becomes a kernel's rule, nothing but addresses and numbers is taken. */
export const edgeOrdersTarget = (): FuzzTarget =>
  textTarget(
    [
      JSON.stringify({ turn: 1, epoch: null, version: 'v', wantsPorts: true, orders }),
      JSON.stringify({ turn: 1, epoch: 2, version: 'v', wantsPorts: false, orders: null }),
      '{"version":"v1","addresses":["10.77.0.1","10.77.0.2"],"here":"10.77.0.1"}',
      '{"version":"none","addresses":null,"here":"10.77.0.1"}',
    ],
    async (text) => {
      const outcomes: string[] = [];
      try {
        const answer = parseEdgeAnswer(text);
        const { ports = [], segments = [], peers = [], publicAddresses = [] } = answer.orders ?? {};
        const rules = [
          ...peers,
          ...publicAddresses,
          ...segments.flatMap(({ vni, cidr, address }) => [vni, cidr, address]),
          ...ports.flatMap((one) => [
            one.vni,
            one.protocol,
            one.publicAddress,
            one.publicPort,
            one.address,
            one.port,
            ...one.allow,
          ]),
        ];
        const wrong = rules.find((part) => !/^([\d.]{7,15}(\/\d{1,2})?|\d{1,8}|tcp|udp)$/.test(String(part)));
        if (wrong !== undefined) throw new Wrong(`a rule with ${wrong}`);
        outcomes.push(`orders ${answer.orders === null ? 'none' : Math.min(ports.length, 2)}`);
      } catch (error) {
        if (error instanceof Wrong || !(error instanceof Error)) throw error;
        requireShortMessage(error.message);
        outcomes.push(error instanceof SyntaxError ? 'no JSON' : signatureOf(error.message).slice(0, 60));
      }
      const machines = createMachineList();
      let value: unknown = null;
      try {
        value = JSON.parse(text);
      } catch {
        return outcomes.join();
      }
      const taken = machines.take(value);
      const others = machines.others();
      if (others?.some((address) => !/^[\d.]{7,15}$/.test(address))) throw new Wrong(`machines ${others.join()}`);
      return `${outcomes.join()} ${taken} ${others === null ? 'none' : Math.min(others.length, 2)}`;
    },
  );
