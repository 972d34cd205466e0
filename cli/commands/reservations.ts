import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { callJson, list, type RequestOptions, type Session, UsageError, withRetry } from '../client.ts';
import { positiveNumber } from '../options.ts';
import { printOne, printRows } from '../output.ts';
import { duration, time } from '../times.ts';

interface Reservation {
  id: string;
  state: string;
  hosts: string[];
  startAt: string;
  endAt: string;
  purpose: string;
}

interface CreateOptions {
  nodes?: number;
  hosts?: string[];
  at: string;
  for: number;
  purpose: string;
  returnVms?: boolean;
}

const reservationPath = (id: string): string => `/v1/reservations/${encodeURIComponent(id)}`;

/** `berth reservations …` */
export function addReservationCommands(program: Command, { connect, output }: Session): void {
  const reservations = program.command('reservations').description('whole hosts, vacated in time (operators)');
  reservations
    .command('ls', { isDefault: true })
    .description('list reservations, newest first')
    .addHelpText('after', '\nExample:\n  berth reservations ls')
    .action(async () => {
      printRows(output(), await list<Reservation>(connect(), '/v1/reservations', {}, 200), {
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
    .option('--nodes <count>', 'so many, those that cost least to vacate', positiveNumber)
    .option('--hosts <ids...>', 'these')
    .requiredOption('--at <time>', 'from when on: RFC 3339, or 15m, 2h, +900 from now on', time)
    .requiredOption('--for <duration>', 'how long: 90s, 15m, 2h, 1d', duration)
    .requiredOption('--purpose <text>', 'what for')
    .option('--return-vms', 'bring back the VMs that had to leave')
    .addHelpText('after', '\nExample:\n  berth reservations create --nodes 2 --at 2h --for 30m --purpose "burn-in"')
    .action(async ({ nodes, hosts, at, for: durationS, purpose, returnVms }: CreateOptions) => {
      if ((nodes === undefined) === (hosts === undefined)) throw new UsageError('expected either --nodes or --hosts');
      const wanted = nodes === undefined ? { hosts } : { nodes };
      const json = { ...wanted, startAt: at, durationS, purpose, returnVms: returnVms ?? false };
      const request: RequestOptions = { method: 'POST', json, headers: { 'idempotency-key': randomUUID() } };
      printOne(output(), await withRetry(() => callJson<Reservation>(connect(), '/v1/reservations', request)));
    });
  reservations
    .command('show')
    .description('describe a reservation')
    .argument('<id>', 'of the reservation; it has no name')
    .addHelpText('after', '\nExample:\n  berth reservations show reservation_01kb5n3vpxe8rt7h9d2m4wqzfa')
    .action(async (id: string) => printOne(output(), await callJson<Reservation>(connect(), reservationPath(id))));
  reservations
    .command('rm')
    .description('cancel a reservation, or give its hosts back')
    .argument('<id>', 'of the reservation; it has no name')
    .addHelpText('after', '\nExample:\n  berth reservations rm reservation_01kb5n3vpxe8rt7h9d2m4wqzfa')
    .action(async (id: string) =>
      printOne(output(), await callJson<Reservation>(connect(), reservationPath(id), { method: 'DELETE' })),
    );
}
