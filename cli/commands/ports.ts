import { randomUUID } from 'node:crypto';
import { type Command, Option } from 'commander';
import { CommandError, type Connection, callEmpty, callJson, list, listItems, poll, type Session, withRetry } from '../client.ts';
import { resolveVm } from '../names.ts';
import { collect, given, wholeNumber } from '../options.ts';
import { print, printOne, printRows } from '../output.ts';

interface PublishedPort {
  id: string;
  vm: string;
  port: number;
  protocol: string;
  publicAddress: string;
  publicPort: number;
  allow: string[];
  state: string;
  waitsFor: string | null;
}

interface Edge {
  id: string;
  address: string;
  state: string;
  active: boolean;
  problem: string | null;
  seenAt: string;
}

interface PublishOptions {
  protocol: string;
  public?: number;
  allow: string[];
  wait?: boolean;
}

const portsPath = (vm: string, rest = ''): string => `/v1/vms/${encodeURIComponent(vm)}/ports${rest}`;
const portPath = ({ vm, id }: PublishedPort): string => portsPath(vm, `/${encodeURIComponent(id)}`);
const publicOf = ({ publicAddress, publicPort, protocol }: PublishedPort): string => `${publicAddress}:${publicPort}/${protocol}`;

/** By its id, or by what clients call it: `ADDRESS:PORT/PROTOCOL`. */
async function findPort(connection: Connection, which: string): Promise<PublishedPort> {
  for await (const port of listItems<PublishedPort>(connection, '/v1/ports', {}))
    if (port.id === which || publicOf(port) === which) return port;
  throw new CommandError(`There is no published port ${which}: berth ports list shows them`);
}

/** `berth ports …` and `berth edges …`. */
export function addPortCommands(program: Command, { connect, output }: Session): void {
  const ports = program.command('ports').description('publish ports of VMs, for clients outside');

  ports
    .command('publish')
    .description('let clients outside reach a port of a VM')
    .argument('<vm>', 'its id or name')
    .argument('<port>', 'in the guest', wholeNumber)
    .addOption(new Option('--protocol <name>', 'what is sent to it').choices(['tcp', 'udp']).default('tcp'))
    .option('--public <port>', 'the public port; without it, the site chooses', wholeNumber)
    .option('--allow <cidr>', 'only these clients; may be repeated', collect, [])
    .option('--wait', 'until clients reach it')
    .addHelpText('after', '\nExample:\n  berth ports publish web 80 --allow 198.51.100.0/24 --wait')
    .action(async (which: string, port: number, options: PublishOptions) => {
      const vm = await resolveVm(connect(), which);
      const json = given({ port, protocol: options.protocol, publicPort: options.public, allow: options.allow });
      const headers = { 'idempotency-key': randomUUID() };
      const accepted = await withRetry(() =>
        callJson<PublishedPort>(connect(), portsPath(vm), { method: 'POST', json, headers }),
      );
      if (!options.wait) return printOne(output(), accepted);
      const isThere = ({ state }: PublishedPort): boolean => state === 'active';
      printOne(output(), await poll(() => callJson<PublishedPort>(connect(), portPath(accepted)), isThere));
    });

  ports
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list published ports, newest first')
    .option('--vm <vm>', 'only those of this VM, by its id or name')
    .option('--limit <n>', 'at most so many', wholeNumber, 100)
    .addHelpText('after', '\nExample:\n  berth ports list --vm web')
    .action(async ({ vm, limit }: { vm?: string; limit: number }) => {
      const path = vm === undefined ? '/v1/ports' : portsPath(await resolveVm(connect(), vm));
      printRows(output(), await list<PublishedPort>(connect(), path, {}, limit), {
        id: (port) => port.id,
        vm: (port) => port.vm,
        port: (port) => port.port,
        public: publicOf,
        allow: (port) => port.allow.join(', ') || 'all',
        state: (port) => (port.waitsFor === null ? port.state : `${port.state} (${port.waitsFor})`),
      });
    });

  ports
    .command('withdraw')
    .description('let no client reach it any more')
    .argument('<port>', 'its id, or ADDRESS:PORT/PROTOCOL')
    .addHelpText('after', '\nExample:\n  berth ports withdraw 203.0.113.7:20017/tcp')
    .action(async (which: string) => {
      const port = await findPort(connect(), which);
      await callEmpty(connect(), portPath(port), { method: 'DELETE' });
      print(output(), port.id);
    });

  const edges = program
    .command('edges')
    .description('list edges, through which published ports are reached, and remove them (operators)');

  edges
    .command('remove')
    .description('remove an edge that does not return')
    .argument('<edge>', 'its id')
    .addHelpText('after', '\nExample:\n  berth edges remove edge-2')
    .action(async (id: string) => {
      await callEmpty(connect(), `/v1/edges/${encodeURIComponent(id)}`, { method: 'DELETE' });
      print(output(), id);
    });

  edges
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list edges')
    .addHelpText('after', '\nExample:\n  berth edges list')
    .action(async () => {
      printRows(output(), await list<Edge>(connect(), '/v1/edges', {}, 1000), {
        id: (edge) => edge.id,
        address: (edge) => edge.address,
        state: (edge) => edge.state,
        active: (edge) => (edge.active ? 'yes' : 'no'),
        problem: (edge) => edge.problem ?? '-',
        'seen at': (edge) => edge.seenAt,
      });
    });
}
