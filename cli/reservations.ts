import { randomUUID } from 'node:crypto';
import { type Command, InvalidArgumentError } from 'commander';
import { type Connection, callJson, list, patiently, UsageError } from './client.ts';
import { duration, moment } from './moment.ts';
import { printOne, printRows, type Screen } from './show.ts';

interface Reservation {
  id: string;
  state: string;
  hosts: string[];
  startAt: string;
  endAt: string;
  purpose: string;
}

interface ReserveOptions {
  nodes?: number;
  hosts?: string[];
  at: string;
  for: number;
  purpose: string;
  returnVms?: boolean;
}

function whole(text: string): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value > 0)) throw new InvalidArgumentError('expected a whole number above 0');
  return value;
}

/** `berth reservations …` */
export function addReservationCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  const reservations = program.command('reservations').description('whole hosts, vacated in time (operators)');
  reservations
    .command('ls', { isDefault: true })
    .description('list reservations, newest first')
    .action(async () => {
      printRows(screen(), await list<Reservation>(connect(), '/v1/reservations', {}, 200), {
        id: ({ id }) => id,
        state: ({ state }) => state,
        hosts: ({ hosts }) => hosts.join(','),
        from: ({ startAt }) => startAt,
        to: ({ endAt }) => endAt,
        purpose: ({ purpose }) => purpose,
      });
    });
  reservations
    .command('create')
    .description('reserve hosts for a time')
    .option('--nodes <count>', 'so many, those that cost least to vacate', whole)
    .option('--hosts <ids...>', 'these')
    .requiredOption('--at <time>', 'from when on: RFC 3339, or 2h from now on', moment)
    .requiredOption('--for <duration>', 'how long: 90s, 15m, 2h, 1d', duration)
    .requiredOption('--purpose <text>', 'what for')
    .option('--return-vms', 'bring back the VMs that had to leave')
    .addHelpText('after', '\nExample:\n  berth reservations create --nodes 2 --at 2h --for 30m --purpose "burn-in"')
    .action(async ({ nodes, hosts, at, for: durationS, purpose, returnVms }: ReserveOptions) => {
      if ((nodes === undefined) === (hosts === undefined)) throw new UsageError('expected either --nodes or --hosts');
      const wanted = nodes === undefined ? { hosts } : { nodes };
      const json = { ...wanted, startAt: at, durationS, purpose, returnVms: returnVms ?? false };
      const sent = { method: 'POST' as const, json, headers: { 'idempotency-key': randomUUID() } };
      printOne(screen(), await patiently(() => callJson<Reservation>(connect(), '/v1/reservations', sent)));
    });
  const path = (id: string) => `/v1/reservations/${encodeURIComponent(id)}`;
  reservations
    .command('show')
    .description('describe a reservation')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Reservation>(connect(), path(id))));
  reservations
    .command('rm')
    .description('cancel a reservation, or give its hosts back')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Reservation>(connect(), path(id), { method: 'DELETE' })));
}
